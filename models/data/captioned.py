"""Captioned videos as pairs of a frame and a sentence: what contrastive pre-training may see beside the movies."""

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from models.data.msrvtt import MSRVTTDataConfig, load_msrvtt
from models.data.sentences import embed_texts


class CaptionedDataConfig(MSRVTTDataConfig):
    """Which videos of MSR-VTT: by default the official training videos, none of its validation and test videos."""

    split: Literal["7k", "9k", "full"] = "full"
    allow_missing_videos: bool = True
    per_video: int = Field(default=5, ge=1)
    """Of each video's captions, so many are used, its first."""


class Captioned(NamedTuple):
    """n frames, m captions and all pairs of a frame and a caption of one video, features as they are stored."""

    video: Tensor
    """(n, d_video) float32."""
    text: Tensor
    """(m, d_text) float32."""
    rows: Tensor
    """(P, 2) int64: a frame and a caption."""
    group: Tensor
    """(P,) int64: the video."""


def load_captioned(config: CaptionedDataConfig, sentence_encoder: str, cache: Path | None) -> Captioned:
    """The training videos' pairs; embeddings of captions are kept in the folder `cache`.

    Raises:
        UserError: a file is missing or malformed, or no video has features.
    """
    train = load_msrvtt(config)["train"]
    captions = [texts[: config.per_video] for texts in train.references()]
    text = embed_texts([caption for texts in captions for caption in texts], sentence_encoder, cache)
    rows, group = [], []
    first_frame = first_text = 0
    for video, (count, texts) in enumerate(zip(train.frames.counts.tolist(), captions, strict=True)):
        own = torch.cartesian_prod(torch.arange(count), torch.arange(len(texts)))
        rows.append(own + torch.tensor([first_frame, first_text]))
        group.append(torch.full((len(own),), video))
        first_frame, first_text = first_frame + count, first_text + len(texts)
    frames = train.frames.features[train.frames.mask.bool()].float()
    return Captioned(frames, text, torch.cat(rows), torch.cat(group))
