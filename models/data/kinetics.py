"""Kinetics-400 (Kay et al. 2017), and other action recognition in its layout: clips with one class each."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from models.backbones.video_language import Kind
from models.data.asked import Asked, AskedDataConfig, Entry, Has, asked_split, check_name, is_number
from models.data.documents import read_table
from models.data.files import read_lines
from models.data.videos import check_apart, held_out
from models.errors import UserError


class KineticsConfig(AskedDataConfig):
    """Which clips and classes.

    A clip is called YOUTUBEID_START_END (seconds in six digits), or as its file is; the folder that it is in, usually
    one of its class, does not count.
    """

    name: Literal["kinetics"] = "kinetics"
    train: str = "kinetics400/train.csv"
    """The official file: columns label, youtube_id, time_start, time_end. Or a .txt file with lines `PATH NUMBER`, the
    number of a class in `class_list`, as repositories of action recognition have them."""
    test: str = "kinetics400/validate.csv"
    """In the same layout. Published figures are of the official validation clips."""
    class_list: str | None = None
    """A text file with a class a line, in the order of their numbers (default: the training labels, by name)."""

    @property
    def kind(self) -> Kind:
        return "recognition"


class Clip(NamedTuple):
    """A clip, and where it was said."""

    where: str
    name: str
    label: str


def load_kinetics(config: KineticsConfig, has: Has) -> Asked:
    """The splits train, validation (a share of the training clips) and test; `has` says which clips have frames.

    Raises:
        UserError: a file is missing or malformed, a clip comes twice, a label is unknown, or clips have no frames and
            may not be left out.
    """
    train, test = config.place(config.train), config.place(config.test)
    named = None if config.class_list is None else _classes(config.place(config.class_list))
    trained, tested = _clips(train, named), _clips(test, named)
    check_apart(test, {"train": (clip.name for clip in trained), "test": (clip.name for clip in tested)})
    classes = named or tuple(sorted({clip.label for clip in trained}))
    numbers = {label: number for number, label in enumerate(classes)}
    for clip in (*trained, *tested):
        if clip.label not in numbers:
            known = f"those of {train}" if named is None else f"those of {config.class_list}"
            raise UserError(f"{clip.where}: unknown class {clip.label!r}; expected one of {known}")
    held = held_out((clip.name for clip in trained), config.validation)
    splits = {
        "train": [clip for clip in trained if clip.name not in held],
        "validation": [clip for clip in trained if clip.name in held],
        "test": tested,
    }
    loaded = {
        split: asked_split(config, has, split, [Entry(clip.name, (), numbers[clip.label]) for clip in clips])
        for split, clips in splits.items()
    }
    return Asked(config.kind, loaded, classes)


def _clips(path: Path, classes: Sequence[str] | None) -> list[Clip]:
    if path.suffix == ".csv":
        clips = _official(path)
    elif classes is None:
        raise UserError(f"{path}: counts its classes; set data.class_list to a text file that names them, one a line")
    else:
        clips = _listed(path, classes)
    if not clips:
        raise UserError(f"{path}: holds no clip; expected one or more")
    names: set[str] = set()
    for clip in clips:
        if clip.name in names:
            raise UserError(f"{clip.where}: clip {clip.name!r} comes twice; expected each once")
        names.add(clip.name)
    return clips


def _official(path: Path) -> list[Clip]:
    clips = []
    for where, cells in read_table(path, "label", "youtube_id", "time_start", "time_end"):
        label, video = cells["label"].strip(), cells["youtube_id"].strip()
        start, end = (cells[column].strip() for column in ("time_start", "time_end"))
        if not is_number(start) or not is_number(end) or int(start) >= int(end):
            raise UserError(f"{where}: is from {start!r:.20} to {end!r:.20}; expected seconds, the end after the start")
        if not label or not video:
            raise UserError(f"{where}: has no label or no youtube_id; expected both")
        clips.append(Clip(where, check_name(f"{video}_{int(start):06d}_{int(end):06d}", where), label))
    return clips


def _listed(path: Path, classes: Sequence[str]) -> list[Clip]:
    clips = []
    for line, text in read_lines(path):
        where = f"{path}:{line}"
        place, _, number = text.strip().rpartition(" ")
        if not place or not is_number(number) or int(number) >= len(classes):
            raise UserError(f"{where}: {text!r:.80}; expected a path and a class, 0 to {len(classes) - 1}")
        clips.append(Clip(where, PurePosixPath(check_name(place.strip(), where)).stem, classes[int(number)]))
    return clips


def _classes(path: Path) -> tuple[str, ...]:
    classes: dict[str, None] = {}
    for line, text in read_lines(path):
        if text.strip() in classes:
            raise UserError(f"{path}:{line}: class {text.strip()!r} comes twice; expected each once")
        classes[text.strip()] = None
    if not classes:
        raise UserError(f"{path}: is empty; expected a class a line")
    return tuple(classes)
