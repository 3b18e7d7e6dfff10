"""Videos with captions, as the readers of video-text data sets give them to tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Caption(NamedTuple):
    """A sentence and the number of its video in the split."""

    video: int
    text: str


@dataclass(frozen=True)
class Frames:
    """Frame features of n videos, padded to F frames."""

    features: Tensor
    """(n, F, D), in the type they are stored in; zeros beyond a video's frames."""
    counts: Tensor
    """(n,) int64, from 1 to F."""

    @property
    def mask(self) -> Tensor:
        """(n, F) int64, 1 for frames that exist."""
        return (torch.arange(self.features.shape[1]) < self.counts[:, None]).long()


@dataclass(frozen=True)
class VideoTextSplit:
    """One split."""

    videos: list[str]
    frames: Frames
    captions: list[Caption]
    """What is trained on: in the order of the videos."""
    queries: list[Caption]
    """What is searched with: the official sentence of each test video, or its first caption."""
    labels: Tensor | None = None
    """(n,) float32, a sentiment each, where the data has them."""

    def __len__(self) -> int:
        return len(self.videos)

    def references(self) -> list[list[str]]:
        """All captions of each video."""
        found: list[list[str]] = [[] for _ in self.videos]
        for caption in self.captions:
            found[caption.video].append(caption.text)
        return found


def padded(videos: Sequence[Tensor], at_most: int) -> Frames:
    """(F_i, D) of each video, one or more; videos with more than `at_most` frames keep so many, evenly spread."""
    kept = [v if len(v) <= at_most else v[torch.linspace(0, len(v) - 1, at_most).round().long()] for v in videos]
    longest = max((len(v) for v in kept), default=1)
    width = kept[0].shape[1] if kept else 0
    features = torch.zeros(len(kept), longest, width, dtype=kept[0].dtype if kept else torch.float32)
    for row, video in zip(features, kept, strict=True):
        row[: len(video)] = video
    return Frames(features, torch.tensor([len(v) for v in kept], dtype=torch.long))
