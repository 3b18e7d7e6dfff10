"""YouCook2 (Zhou et al., AAAI 2018): segments of cooking videos with a sentence each, and their stored features."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from models.data.documents import read_json, read_table, sentence
from models.data.frames import FrameStore
from models.data.videos import Caption, Segment, VideoTextDataConfig, VideoTextSplit, held_out, with_frames
from models.errors import UserError

TRAINING, VALIDATION = "training", "validation"
LONGEST = 1e6
"""Seconds, of any video."""


class YouCook2DataConfig(VideoTextDataConfig):
    """Which segments, sentences and features of YouCook2.

    A "video" of retrieval and captioning is a segment, called VIDEO_SEGMENT. The official validation videos are the
    test split, as the official test videos have no public sentences; a share of the training videos is held out.
    """

    name: Literal["youcook2"] = "youcook2"
    annotations: str = "youcook2/youcookii_annotations_trainval.json"
    """The official file, or UniVL's, with transcripts, as `models.data.univl_pickles` converts it."""
    train_list: str | None = None
    """A csv with the column `video_id` of what to train on, and with `feature_file` if the features have other ids
    (default: the official training videos; UniVL's annotations need both lists)."""
    test_list: str | None = None
    features: str = "youcook2/step_features.npz"
    """By segment, or by whole video, `frames_per_second` of them."""
    frames_per_second: float = Field(default=1.0, gt=0)


class Step(NamedTuple):
    """A segment of a video."""

    id: str
    start: float
    """Seconds."""
    end: float
    text: str
    transcript: str = ""


def load_youcook2(config: YouCook2DataConfig) -> dict[str, VideoTextSplit]:
    """The splits train, validation (possibly empty) and test. Prints how many segments were left out, if any.

    Raises:
        UserError: a file is missing or malformed, or segments have no features and may not be left out.
    """
    path = config.place(config.annotations)
    steps, subsets = read_youcook2(path)
    train, test = (
        {video: video for video, found in subsets.items() if found == subset}
        if name is None
        else _read_list(config.place(name), steps)
        for name, subset in ((config.train_list, TRAINING), (config.test_list, VALIDATION))
    )
    if both := [video for video in train if video in test]:
        raise UserError(f"{path}: {both[0]!r} is in train and in test; nothing may be in both")
    if not train or not test:
        raise UserError(
            f"{path}: says not which videos to train on; set data.train_list and data.test_list to csv files"
        )
    chosen = held_out(train, config.validation)
    store = config.store()
    splits = {
        "train": {video: source for video, source in train.items() if video not in chosen},
        "validation": {video: source for video, source in train.items() if video in chosen},
        "test": test,
    }
    return {split: _split(config, store, split, videos, steps) for split, videos in splits.items()}


def _split(
    config: YouCook2DataConfig,
    store: FrameStore,
    split: str,
    videos: Mapping[str, str],
    steps: Mapping[str, Sequence[Step]],
) -> VideoTextSplit:
    """`videos` are ids of annotations with those of features."""
    chosen = {step.id: step for video in videos for step in steps[video]}
    segments = [_segment(step, source, store, config) for video, source in videos.items() for step in steps[video]]
    kept, frames, left_out = with_frames(config, store, split, segments, "segments")
    found = [chosen[segment.video] for segment in kept]
    captions = [Caption(number, step.text) for number, step in enumerate(found)]
    transcripts = [step.transcript for step in found] if any(step.transcript for step in found) else None
    return VideoTextSplit([step.id for step in found], frames, captions, captions, None, left_out, transcripts)


def _segment(step: Step, source: str, store: FrameStore, config: YouCook2DataConfig) -> Segment:
    if step.id in store:
        return Segment(step.id, step.id)
    rate = config.frames_per_second
    return Segment(step.id, source, int(step.start * rate), int(step.end * rate) + 1)  # as UniVL cuts them


def read_youcook2(path: Path) -> tuple[dict[str, list[Step]], dict[str, str]]:
    """The segments of each video in order, and its official subset, training or validation, where the file has it.

    Raises:
        UserError: the file is missing or malformed; a segment comes twice, does not end after its start, or has no
            sentence.
    """
    where, content = read_json(path, path.name)
    if not isinstance(content, dict):
        raise UserError(f"{where}: is no JSON object; expected annotations of YouCook2")
    if "database" not in content:
        return {video: _converted(f"{where}: {video!r}", video, entry) for video, entry in content.items()}, {}
    database = content["database"]
    if not isinstance(database, dict):
        raise UserError(f"{where}: 'database' is no JSON object; expected one entry a video")
    steps, subsets = {}, {}
    for video, entry in database.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), list):
            raise UserError(f"{where}: {video!r} has no list 'annotations'; expected its segments")
        if entry.get("subset") not in (TRAINING, VALIDATION):
            raise UserError(f"{where}: subset of {video!r} is {entry.get('subset')!r}; expected training or validation")
        subsets[video] = entry["subset"]
        steps[video] = _official(f"{where}: {video!r}", video, entry["annotations"])
    return steps, subsets


def _official(where: str, video: str, entries: Iterable[Any]) -> list[Step]:
    steps: dict[str, Step] = {}
    for place, entry in enumerate(entries):
        what = f"{where}: annotations[{place}]"
        number, times = (entry.get(key) if isinstance(entry, dict) else None for key in ("id", "segment"))
        if not isinstance(number, int) or not isinstance(times, list) or len(times) != 2:
            raise UserError(f"{what}: has no 'id' or no 'segment'; expected a number, and start and end in seconds")
        step = _step(what, f"{video}_{number}", times[0], times[1], entry.get("sentence"))
        if step.id in steps:
            raise UserError(f"{what}: segment {number} comes twice; expected each once")
        steps[step.id] = step
    return list(steps.values())


def _converted(where: str, video: str, entry: Any) -> list[Step]:
    columns = [entry.get(key) if isinstance(entry, dict) else None for key in ("start", "end", "text", "transcript")]
    if columns[3] is None and isinstance(columns[2], list):
        columns[3] = [""] * len(columns[2])
    if not all(isinstance(column, list) for column in columns) or len({len(column or "") for column in columns}) != 1:
        raise UserError(f"{where}: 'start', 'end' and 'text' are no lists of one length; expected a place a segment")
    rows = zip(*(column or [] for column in columns), strict=True)
    return [_step(f"{where}: segment {number}", f"{video}_{number}", *row) for number, row in enumerate(rows)]


def _step(what: str, id: str, start: Any, end: Any, text: Any, transcript: Any = "") -> Step:
    for seconds in (start, end):
        if not isinstance(seconds, int | float):
            raise UserError(f"{what}: time {seconds!r:.60}; expected a number of seconds")
    if not 0 <= start < end < LONGEST:
        raise UserError(f"{what}: is from {start} to {end} s; expected 0 <= start < end")
    if not isinstance(transcript, str):
        raise UserError(f"{what}: transcript is {transcript!r:.60}; expected a text")
    return Step(id, float(start), float(end), sentence(text, f"{what}: the sentence"), transcript)


def _read_list(path: Path, steps: Mapping[str, Sequence[Step]]) -> dict[str, str]:
    """The videos of a csv file, each with its id in the features."""
    videos: dict[str, str] = {}
    for where, cells in read_table(path, "video_id"):
        video = cells["video_id"]
        if video not in steps:
            raise UserError(f"{where}: unknown video {video!r}; expected one of the annotations")
        if video in videos:
            raise UserError(f"{where}: {video!r} comes twice; expected each video once")
        videos[video] = cells.get("feature_file", video)
    return videos
