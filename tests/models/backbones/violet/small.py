"""A tiny Violet and random batches, for what needs no recorded numbers."""

from typing import Any

import torch
from torch import Tensor

from models.backbones.video_language import Kind, Setting, VideoLanguageBatch
from models.backbones.violet.config import VioletConfig
from models.backbones.violet.network import Violet

WORDS, FRAMES, OPTIONS, CODES, VOCABULARY = 5, 3, 3, 7, 23
CLASSES = ("a dog", "a cat", "a horse", "none")
KINDS: tuple[Kind, ...] = ("retrieval", "multiple_choice", "open_ended", "recognition")
SIZES: dict[str, Any] = {
    "frames": FRAMES,
    "image_size": 64,
    "embed_dim": 2,
    "depths": (1, 2, 1, 1),
    "swin_heads": (1, 2, 1, 2),
    "window": (2, 3, 3),  # smaller than the first grids: windows are padded and shifted along all axes
    "layers": 1,
    "heads": 2,
    "intermediate": 24,
    "vocabulary": VOCABULARY,
    "text_positions": 8,
    "frame_positions": 4,
    "cell_positions": 6,
    "codes": CODES,
    "dropout": 0.0,
    "answer_dropout": 0.0,
    "stochastic_depth": 0.0,
}


def config(**changes: Any) -> VioletConfig:
    return VioletConfig.model_validate(SIZES | changes)


def setting(kind: Kind, **changes: Any) -> Setting:
    """Of the batches below."""
    classes = CLASSES if kind in ("open_ended", "recognition") else ()
    found: dict[str, Any] = {
        "vocabulary": VOCABULARY,
        "words": WORDS,
        "special": (1, 2, 3),
        "classes": classes,
        "codes": CODES,
    }
    return Setting(kind, **found | changes)


def network(kind: Kind = "retrieval", **changes: Any) -> Violet:
    """The same weights at every call, large enough for gradients to be seen; float64."""
    torch.manual_seed(1)
    made = Violet(config(**changes), setting(kind)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def batch(kind: Kind = "retrieval", samples: int = 5) -> VideoLanguageBatch:
    """Texts of different lengths; some samples have no masked word, some frames no hidden cell, one no answer."""
    source = torch.Generator().manual_seed(2)

    def number(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=source)

    options = OPTIONS if kind == "multiple_choice" else 1
    cells = (samples, FRAMES, 2, 2)
    lengths = torch.full((samples, options), 2) if kind == "recognition" else 3 + number(WORDS - 2, samples, options)
    exists = torch.arange(WORDS) < lengths[..., None]
    ids = (4 + number(VOCABULARY - 4, samples, options, WORDS)) * exists
    chosen = (number(3, *ids.shape) == 0) & exists & (kind != "recognition")
    answers = number({"multiple_choice": OPTIONS, "retrieval": 1}.get(kind, len(CLASSES)), samples)
    if kind in ("open_ended", "recognition"):
        answers[-1:] = -1
    return VideoLanguageBatch(
        frames=torch.rand(samples, FRAMES, 3, 64, 64, generator=source, dtype=torch.float64),
        hidden=number(3, *cells) == 0,
        cell_tokens=number(CODES, *cells),
        ids=ids,
        masked_ids=ids.masked_fill(chosen, 3),
        token_labels=ids.masked_fill(~chosen, -1),
        answers=answers,
        seeds=torch.arange(samples),
    )


def names(kind: Kind) -> tuple[str, ...]:
    """The losses of a kind of task."""
    return config().losses(kind, CODES)


def means(network: Violet, part: VideoLanguageBatch, whole: VideoLanguageBatch) -> Tensor:
    """(T,), all losses of a part, over what the whole batch has."""
    wanted = names(network.kind)
    losses, weights = network(part, wanted), network.config.weights(whole, wanted)
    return torch.stack([losses[name] / weights[name] for name in wanted])
