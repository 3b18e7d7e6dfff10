"""A tiny UniVL and a random batch, for what needs no recorded numbers."""

from typing import Any

import torch

from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import UniVL, UniVLBatch

WORDS, FRAMES, WIDTH, VOCABULARY = 6, 4, 5, 23
SIZES: dict[str, Any] = {
    "hidden": 16,
    "heads": 2,
    "intermediate": 24,
    "text_layers": 1,
    "visual_layers": 1,
    "cross_layers": 2,
    "decoder_layers": 1,
    "video_dim": WIDTH,
    "vocabulary": VOCABULARY,
    "text_positions": 12,
    "visual_positions": 8,
    "cross_positions": 20,
    "dropout": 0.0,
    "sentiment": True,
}


def network(**changes: Any) -> UniVL:
    """The same weights at every call, large enough for gradients to be seen; float64."""
    torch.manual_seed(1)
    made = UniVL(UniVLConfig.model_validate(SIZES | changes)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def batch(samples: int = 7) -> UniVLBatch:
    """Sequences of different lengths; some samples have no masked word."""
    source = torch.Generator().manual_seed(2)

    def number(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=source)

    lengths, frames = 3 + number(WORDS - 2, samples), 1 + number(FRAMES, samples)
    mask = (torch.arange(WORDS) < lengths[:, None]).long()
    video_mask = (torch.arange(FRAMES) < frames[:, None]).long()
    ids = (1 + number(VOCABULARY - 1, samples, WORDS)) * mask
    chosen = (number(3, samples, WORDS) == 0) & (mask == 1)
    video = torch.randn(samples, FRAMES, WIDTH, generator=source, dtype=torch.float64) * video_mask[..., None]
    gone = (number(2, samples, FRAMES) == 0) & (video_mask == 1)
    return UniVLBatch(
        ids=ids,
        types=torch.zeros_like(ids),
        mask=mask,
        video=video,
        video_mask=video_mask,
        masked_ids=ids.masked_fill(chosen, 4),
        token_labels=ids.masked_fill(~chosen, -1),
        masked_video=video.masked_fill(gone[..., None], 0.0),
        frame_labels=torch.where(gone, torch.arange(FRAMES), -1),
        caption_ids=ids,
        caption_labels=ids.roll(-1, 1) * mask,
        caption_mask=mask,
        sentiment=torch.randn(samples, generator=source, dtype=torch.float64),
    )
