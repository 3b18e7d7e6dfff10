"""Videos with captions, as the readers of video-text data sets give them to tasks."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from models.config import StrictConfig
from models.data.files import data_path
from models.data.frames import NAMED, FrameStore, spread
from models.errors import UserError


class VideoTextDataConfig(StrictConfig):
    """What data sets of videos with captions have in common. Relative paths are looked up below `root` (default:
    MELTMATCH_DATA)."""

    root: str | None = None
    features: str
    """Frame features in a layout that `models.data.frames.FrameStore` knows; their width is the file's."""
    feature_index: str | None = None
    """A csv that maps video ids to rows of `features`."""
    allow_missing_videos: bool = False
    """Leave out videos without features, and say how many, instead of stopping."""
    validation: float = Field(default=0.03, ge=0, lt=1)
    """Share of the training videos held out, always the same ones, where a data set has no validation split."""
    max_frames: int = Field(default=12, ge=1)
    """Of a video with more, so many are used, evenly spread."""

    def place(self, name: str) -> Path:
        """Where a file of this data set is."""
        return data_path(self.root, name)

    def store(self) -> FrameStore:
        """The frame features."""
        return FrameStore(
            self.place(self.features), index=self.place(self.feature_index) if self.feature_index else None
        )


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
class LeftOut:
    """What a split is short of, and why."""

    path: Path
    split: str
    names: tuple[str, ...]
    total: int
    """How many there are together with those that were left out."""
    why: str
    """What they are and lack: "videos have no features"."""

    def __str__(self) -> str:
        named = ", ".join(self.names[:NAMED]) + (", ..." if len(self.names) > NAMED else "")
        return f"{self.path}: {len(self.names)} of {self.total} {self.split} {self.why} ({named})"

    def say(self) -> None:
        """Prints it on stderr."""
        print(f"{self}; left out", file=sys.stderr, flush=True)


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
    left_out: LeftOut | None = None
    transcripts: list[str] | None = None
    """What is said in each video, where the data has it."""

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
    kept = [video if len(video) <= at_most else video[spread(len(video), at_most)] for video in videos]
    longest = max((len(video) for video in kept), default=1)
    types = {video.dtype for video in kept}
    features = torch.zeros(
        len(kept), longest, kept[0].shape[1] if kept else 0, dtype=types.pop() if len(types) == 1 else torch.float32
    )
    for row, video in zip(features, kept, strict=True):
        row[: len(video)] = video
    return Frames(features, torch.tensor([len(video) for video in kept], dtype=torch.long))


class Segment(NamedTuple):
    """A video of a split: all frames of what the store calls `source`, or those from `start` to before `stop`."""

    video: str
    source: str
    start: int = 0
    stop: int = sys.maxsize


def with_frames(
    config: VideoTextDataConfig, store: FrameStore, split: str, segments: Sequence[Segment], what: str = "videos"
) -> tuple[list[Segment], Frames, LeftOut | None]:
    """Those of a split that have frames, their frames, and what was left out, which is said on stderr too.

    `what` they are is for the messages.

    Raises:
        UserError: some have none and may not be left out, none has any, or a feature is NaN or infinite.
    """
    kept = [segment for segment in segments if segment.start < store.lengths.get(segment.source, 0)]
    left_out = None
    if len(kept) < len(segments):
        there = {segment.video for segment in kept}
        names = tuple(segment.video for segment in segments if segment.video not in there)
        left_out = LeftOut(store.path, split, names, len(segments), f"{what} have no features")
        if not config.allow_missing_videos:
            raise UserError(f"{left_out}; set data.allow_missing_videos=true to leave them out")
        if not kept:
            raise UserError(f"{left_out}; expected some with features: are these features of another data set?")
        left_out.say()
    parts = [store.part(segment.source, segment.start, segment.stop, config.max_frames) for segment in kept]
    return kept, padded(parts, config.max_frames), left_out


def held_out(videos: Iterable[str], fraction: float) -> set[str]:
    """A random share of the different videos, the same for the same videos in the same order."""
    listed = list(dict.fromkeys(videos))
    order = np.random.default_rng(0).permutation(len(listed))  # the same for every run
    return {listed[number] for number in order[: round(fraction * len(listed))]}


def check_apart(where: object, splits: Mapping[str, Iterable[str]]) -> None:
    """Raises UserError, which begins with `where`, if a video is in two splits; named are the later and the earlier."""
    found: dict[str, str] = {}
    for split, videos in splits.items():
        for video in dict.fromkeys(videos):
            if video in found:
                raise UserError(f"{where}: {video!r} is in {split} and in {found[video]}; nothing may be in both")
            found[video] = split
