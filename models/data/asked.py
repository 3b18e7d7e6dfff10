"""What is asked of videos that are seen as pixels, as the readers of such data sets give it to tasks."""

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import Field

from models.backbones.video_language import Kind
from models.config import StrictConfig
from models.data.files import data_path
from models.data.videos import LeftOut
from models.errors import UserError

Has = Callable[[str], bool]
"""Whether the source of frames has a video of this name."""


class AskedDataConfig(StrictConfig):
    """What these data sets have in common. Relative paths are looked up below `root` (default: MELTMATCH_DATA)."""

    root: str | None = None
    frames: str
    """Where the frames are: a tar file of frames, a pattern (with *) of several, or a folder of frames or videos."""
    allow_missing_videos: bool = False
    """Leave out what is asked of videos without frames, and say of how many, instead of stopping."""
    validation: float = Field(default=0.03, ge=0, lt=1)
    """Share of the training videos held out, always the same ones, where a data set has no validation split."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What is asked."""

    def place(self, name: str) -> Path:
        """Where a file of this data set is."""
        return data_path(self.root, name)


@dataclass(frozen=True)
class Item:
    """One thing that is asked."""

    video: int
    """The number of its video in the split."""
    texts: tuple[str, ...]
    """A caption or a question; of multiple choice the question with each of the options; none for recognition."""
    answer: int
    """The right option, answer or class; -1 where it is none of those known, and for retrieval."""


@dataclass(frozen=True)
class AskedSplit:
    """One split."""

    videos: list[str]
    """By the names that the source of frames knows."""
    items: list[Item]
    left_out: LeftOut | None = None

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Asked:
    """A whole data set."""

    kind: Kind
    splits: dict[str, AskedSplit]
    """train, validation (possibly empty) and test."""
    classes: tuple[str, ...] = ()
    """The answers or classes that an item's `answer` counts; none for retrieval and multiple choice."""


class Entry(NamedTuple):
    """An item that names its video."""

    video: str
    texts: tuple[str, ...]
    answer: int


def asked_split(config: AskedDataConfig, has: Has, split: str, entries: Sequence[Entry]) -> AskedSplit:
    """The entries whose videos have frames, in their order. Says on stderr of how many videos there are none.

    Raises:
        UserError: some videos have no frames and may not be left out, or none has any.
    """
    videos = dict.fromkeys(entry.video for entry in entries)
    numbers = {video: number for number, video in enumerate(video for video in videos if has(video))}
    left_out = None
    if len(numbers) < len(videos):
        names = tuple(video for video in videos if video not in numbers)
        left_out = LeftOut(config.place(config.frames), split, names, len(videos), "videos have no frames")
        if not config.allow_missing_videos:
            raise UserError(f"{left_out}; set data.allow_missing_videos=true to leave them out")
        if not numbers:
            raise UserError(f"{left_out}; expected some with frames: are these frames of another data set?")
        left_out.say()
    items = [Item(numbers[video], texts, answer) for video, texts, answer in entries if video in numbers]
    return AskedSplit(list(numbers), items, left_out)


def is_number(text: str) -> bool:
    """Whether a text is a number from 0 to below a billion, in digits."""
    return re.fullmatch("[0-9]{1,9}", text) is not None


def check_name(name: str, where: str) -> str:
    """A video's name, or its path below a folder, as it stands.

    Raises:
        UserError: it is empty, holds a control character, or leads out of the folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise UserError(f"{where}: video {name!r} is no name below the folder of videos; expected one without '..'")
    if not name.isprintable():
        raise UserError(f"{where}: video {name!r} holds a control character; expected a name")
    return name
