"""MSR-VTT (Xu et al., CVPR 2016): official annotations and the splits that are in use, with stored frame features."""

import csv
import json
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from models.config import StrictConfig
from models.data.files import data_path, read_lines
from models.data.frames import NAMED, FrameStore
from models.data.videos import Caption, VideoTextSplit, padded
from models.errors import UserError

ANNOTATIONS = ("train_val", "test")
LISTS = {
    "7k": ("MSRVTT_train.7k.csv", "MSRVTT_JSFUSION_test.csv"),
    "9k": ("MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"),
    "full": ("MSRVTT_train.full.csv", "MSRVTT_test.full.csv"),
}


class MSRVTTDataConfig(StrictConfig):
    """Which videos, captions and features. Relative paths are looked up below `root` (default: MELTMATCH_DATA)."""

    name: Literal["msrvtt"] = "msrvtt"
    root: str | None = None
    folder: str = "msrvtt"
    """Holds the official annotations (json, or zipped as they are published) and the lists of the splits (csv)."""
    split: Literal["7k", "9k", "full"] = "7k"
    """7k and 9k: so many training videos, tested on the 1,000 sentences of 1k-A; full: 6,513 / 497 / 2,990 videos."""
    features: str = "msrvtt/frame_features.npz"
    allow_missing_videos: bool = False
    """Leave out videos without features, and say how many, instead of stopping."""
    validation: float = Field(default=0.03, ge=0, lt=1)
    """Share of the training videos held out, always the same ones; `full` has its own validation split."""
    max_frames: int = Field(default=12, ge=1)


def load_msrvtt(config: MSRVTTDataConfig) -> dict[str, VideoTextSplit]:
    """The splits train, validation (possibly empty) and test. Prints how many videos were left out, if any.

    Raises:
        UserError: a file is missing or malformed, or videos have no features and may not be left out.
    """
    folder = data_path(config.root, config.folder)
    captions, official = _read_captions(folder)
    train_list, test_list = (folder / name for name in LISTS[config.split])
    train, (test, queries) = _read_list(train_list, captions)[0], _read_list(test_list, captions)
    if config.split == "full":
        validation = [video for video, split in official.items() if split == "validate"]
    else:
        validation = _held_out(train, config.validation)
    if both := set(test) & set(train):
        raise UserError(f"{train_list}: {sorted(both)[0]!r} is also in {test_list.name}; nothing may be in both")
    chosen = set(validation)
    names = {"train": [v for v in train if v not in chosen], "validation": validation, "test": test}
    store = FrameStore(data_path(config.root, config.features))
    return {
        split: _split(config, store, split, videos, captions, queries if split == "test" else {})
        for split, videos in names.items()
    }


def _split(
    config: MSRVTTDataConfig,
    store: FrameStore,
    split: str,
    videos: Sequence[str],
    captions: Mapping[str, list[str]],
    queries: Mapping[str, str],
) -> VideoTextSplit:
    if missing := store.missing(videos):
        named = ", ".join(missing[:NAMED])
        what = f"{store.path}: {len(missing)} of {len(videos)} {split} videos have no features ({named}, ...)"
        if not config.allow_missing_videos:
            raise UserError(f"{what}; set data.allow_missing_videos=true to leave them out")
        print(f"{what}; left out", file=sys.stderr, flush=True)
    without = set(missing)
    kept = [video for video in videos if video not in without]
    frames = padded(store.read(kept), config.max_frames)
    listed = [Caption(number, text) for number, video in enumerate(kept) for text in captions[video]]
    first = [Caption(number, queries.get(video, captions[video][0])) for number, video in enumerate(kept)]
    return VideoTextSplit(kept, frames, listed, first)


def _held_out(videos: Sequence[str], fraction: float) -> list[str]:
    order = np.random.default_rng(0).permutation(len(videos))  # the same for every run
    return [videos[number] for number in sorted(order[: round(fraction * len(videos))])]


def _read_captions(folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Captions by video, and the official split of each video."""
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for part in ANNOTATIONS:
        where, content = _read_json(folder, part)
        for kind, key in (("videos", "split"), ("sentences", "caption")):
            if not isinstance(content.get(kind), list):
                raise UserError(f"{where}: has no list '{kind}'; expected MSR-VTT's videodatainfo")
            for number, entry in enumerate(content[kind]):
                video, value = (entry.get(name) if isinstance(entry, dict) else None for name in ("video_id", key))
                if not isinstance(video, str) or not isinstance(value, str):
                    raise UserError(f"{where}: {kind}[{number}] has no 'video_id' or no '{key}'; expected texts")
                if kind == "videos":
                    splits[video] = value
                    captions[video] = []
                elif video not in captions:
                    raise UserError(f"{where}: sentences[{number}] is of {video!r}, which is not among the videos")
                elif not value.strip():
                    raise UserError(f"{where}: sentences[{number}] of {video!r} is empty; expected a caption")
                else:
                    captions[video].append(value)
    if bare := [video for video, texts in captions.items() if not texts]:
        raise UserError(f"{folder}: {bare[0]!r} has no caption ({len(bare)} videos); expected one or more each")
    return captions, splits


def _read_json(folder: Path, part: str) -> tuple[str, dict[str, Any]]:
    name = f"{part}_videodatainfo.json"
    plain, packed = folder / name, folder / f"{part}_annotation.zip"
    where = str(plain)
    try:
        if plain.is_file():
            data = plain.read_bytes()
        else:
            where = f"{packed}:{name}"
            with zipfile.ZipFile(packed) as archive:
                data = archive.read(name)
        content = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{plain}: no such file, nor {packed.name}; expected MSR-VTT's annotations") from None
    except KeyError:
        raise UserError(f"{packed}: holds no {name}; expected the official archive") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start + 1} is not UTF-8; expected the official file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, json.JSONDecodeError) as error:
        raise UserError(f"{where}: is malformed or cut short ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: is no JSON object; expected MSR-VTT's videodatainfo")
    return where, content


def _read_list(path: Path, captions: Mapping[str, list[str]]) -> tuple[list[str], dict[str, str]]:
    """The videos of a csv file with a column `video_id`, and the sentences of its column `sentence`, if it has one."""
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: is empty; expected a header with 'video_id', then a line a video")
    header = next(csv.reader([lines[0][1]]))
    if "video_id" not in header:
        raise UserError(f"{path}:{lines[0][0]}: no column 'video_id' among {', '.join(header)}")
    videos: dict[str, str] = {}
    for number, line in lines[1:]:
        cells = dict(zip(header, next(csv.reader([line])), strict=False))
        video, sentence = cells.get("video_id", ""), cells.get("sentence", "")
        if video not in captions:
            raise UserError(f"{path}:{number}: unknown video {video!r}; expected one of the annotations")
        if video in videos:
            raise UserError(f"{path}:{number}: {video!r} comes twice; expected each video once")
        if "sentence" in header and not sentence.strip():
            raise UserError(f"{path}:{number}: the sentence of {video!r} is empty; expected a caption")
        videos[video] = sentence
    return list(videos), videos if "sentence" in header else {}
