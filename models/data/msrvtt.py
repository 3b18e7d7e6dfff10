"""MSR-VTT (Xu et al., CVPR 2016): official annotations and the splits that are in use, with stored frame features."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from models.data.documents import read_json, read_table, sentence
from models.data.frames import FrameStore
from models.data.videos import Caption, Segment, VideoTextDataConfig, VideoTextSplit, check_apart, held_out, with_frames
from models.errors import UserError

ANNOTATIONS, MERGED = ("train_val", "test"), "MSRVTT_data.json"
Value = TypeVar("Value", str, int)
Which = Literal["7k", "9k", "full"]
OFFICIAL = ("train", "validate", "test")
LISTS = {
    "7k": ("MSRVTT_train.7k.csv", "MSRVTT_JSFUSION_test.csv"),
    "9k": ("MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"),
    "full": ("MSRVTT_train.full.csv", "MSRVTT_test.full.csv"),
}
CATEGORIES = (
    *("music", "people", "gaming", "sports/actions", "news/events/politics", "education", "tv shows", "movie/comedy"),
    *("animation", "vehicles/autos", "howto", "travel", "science/technology", "animals/pets", "kids/family"),
    *("documentary", "food/drink", "cooking", "beauty/fashion", "advertisement"),
)
"""By number, as the official category.txt names them."""


class MSRVTTDataConfig(VideoTextDataConfig):
    """Which videos, captions and features of MSR-VTT."""

    name: Literal["msrvtt"] = "msrvtt"
    folder: str = "msrvtt"
    """Holds the official annotations (json, or zipped as they are published) and the lists of the splits (csv)."""
    split: Which = "7k"
    """7k and 9k: so many training videos, tested on the 1,000 sentences of 1k-A (Yu et al., ECCV 2018), with a share of
    the training videos held out; full: 6,513 / 497 / 2,990 videos."""
    features: str = "msrvtt/frame_features.npz"


def load_msrvtt(config: MSRVTTDataConfig) -> dict[str, VideoTextSplit]:
    """The splits train, validation (possibly empty) and test. Prints how many videos were left out, if any.

    Raises:
        UserError: a file is missing or malformed, or videos have no features and may not be left out.
    """
    captions, splits, queries = read_splits(config.place(config.folder), config.split, config.validation)
    store = config.store()
    return {
        split: _split(config, store, split, videos, captions, queries if split == "test" else {})
        for split, videos in splits.items()
    }


def read_splits(
    folder: Path, which: Which, validation: float
) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, str]]:
    """Captions by video; the videos of the splits train, validation and test; the sentences that test videos are
    searched with, where the split has them (1k-A).

    `validation` is the share of the training videos that is held out where there is no official validation split.

    Raises:
        UserError: a file is missing or malformed, or a video is in two splits.
    """
    captions, official = read_annotations(folder)
    train_list, test_list = (folder / name for name in LISTS[which])
    train, (test, queries) = _read_list(train_list, captions)[0], _read_list(test_list, captions)
    if which == "full":
        held = [video for video, split in official.items() if split == "validate"]
    else:
        chosen = held_out(train, validation)
        held = [video for video in train if video in chosen]
        train = [video for video in train if video not in chosen]
    check_apart(train_list, {"test": test, "validation": held, "train": train})
    return captions, {"train": train, "validation": held, "test": test}, queries


def _split(
    config: MSRVTTDataConfig,
    store: FrameStore,
    split: str,
    videos: Sequence[str],
    captions: Mapping[str, list[str]],
    queries: Mapping[str, str],
) -> VideoTextSplit:
    kept, frames, left_out = with_frames(config, store, split, [Segment(video, video) for video in videos])
    names = [segment.video for segment in kept]
    listed = [Caption(number, text) for number, video in enumerate(names) for text in captions[video]]
    first = [Caption(number, queries.get(video, captions[video][0])) for number, video in enumerate(names)]
    return VideoTextSplit(names, frames, listed, first, left_out=left_out)


def read_annotations(folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Captions by video, and the official split of each video: train, validate or test.

    They are in `train_val_videodatainfo.json` and `test_videodatainfo.json`, plain or in the zip files
    `train_val_annotation.zip` and `test_annotation.zip`, or both in `MSRVTT_data.json`, as UniVL publishes them.

    Raises:
        UserError: a file is missing or malformed, a video comes twice, has no caption, or a caption is empty or of
            another video.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for where, content in _documents(folder):
        for entry, video, split in _entries(where, content, "videos", "split", str):
            if video in splits:
                raise UserError(f"{entry} is {video!r}, which comes twice; expected each video once")
            if split not in OFFICIAL:
                raise UserError(f"{entry}: split {split!r} of {video!r}; expected {', '.join(OFFICIAL)}")
            splits[video], captions[video] = split, []
        for entry, video, text in _entries(where, content, "sentences", "caption", str):
            if video not in captions:
                raise UserError(f"{entry} is of {video!r}, which is not among the videos")
            captions[video].append(sentence(text, f"{entry} of {video!r}"))
    if bare := [video for video, texts in captions.items() if not texts]:
        raise UserError(f"{folder}: {bare[0]!r} has no caption ({len(bare)} videos); expected one or more each")
    return captions, splits


def read_categories(folder: Path) -> dict[str, int]:
    """The category of each video: a number of CATEGORIES.

    Raises:
        UserError: a file is missing or malformed, or a category is none of the official ones.
    """
    categories: dict[str, int] = {}
    for where, content in _documents(folder):
        for entry, video, number in _entries(where, content, "videos", "category", int):
            if number not in range(len(CATEGORIES)):
                raise UserError(f"{entry}: category {number} of {video!r}; expected 0 to {len(CATEGORIES) - 1}")
            categories[video] = number
    return categories


def _documents(folder: Path) -> Iterator[tuple[str, Any]]:
    """Each file of the annotations: what to call it in errors, and its value."""
    merged = folder / MERGED
    for path in [merged] if merged.is_file() else [_annotation_file(folder, part) for part in ANNOTATIONS]:
        yield read_json(path, f"{path.name.removesuffix('_annotation.zip')}_videodatainfo.json")


def _annotation_file(folder: Path, part: str) -> Path:
    plain, packed = folder / f"{part}_videodatainfo.json", folder / f"{part}_annotation.zip"
    for path in (plain, packed):
        if path.is_file():
            return path
    raise UserError(f"{plain}: no such file, nor {packed.name} or {MERGED}; expected MSR-VTT's annotations")


def _entries(where: str, content: Any, kind: str, key: str, expected: type[Value]) -> Iterator[tuple[str, str, Value]]:
    """Of each entry of a list of the annotations: where it is, its video, and what it has at `key`."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: is no JSON object; expected MSR-VTT's videodatainfo")
    if not isinstance(content.get(kind), list):
        raise UserError(f"{where}: has no list '{kind}'; expected MSR-VTT's videodatainfo")
    for number, entry in enumerate(content[kind]):
        video, value = (entry.get(name) if isinstance(entry, dict) else None for name in ("video_id", key))
        if not isinstance(video, str) or not isinstance(value, expected):
            what = "texts" if expected is str else "a text and a number"
            raise UserError(f"{where}: {kind}[{number}] has no 'video_id' or no '{key}'; expected {what}")
        yield f"{where}: {kind}[{number}]", video, value


def _read_list(path: Path, captions: Mapping[str, list[str]]) -> tuple[list[str], dict[str, str]]:
    """The videos of a csv file with a column `video_id`, and the sentences of its column `sentence`, if it has one."""
    videos: dict[str, None] = {}
    sentences = {}
    for where, cells in read_table(path, "video_id"):
        video = cells["video_id"]
        if video not in captions:
            raise UserError(f"{where}: unknown video {video!r}; expected one of the annotations")
        if video in videos:
            raise UserError(f"{where}: {video!r} comes twice; expected each video once")
        videos[video] = None
        if "sentence" in cells:
            sentences[video] = sentence(cells["sentence"], f"{where}: the sentence of {video!r}")
    return list(videos), sentences
