"""CMU-MOSI (Zadeh et al. 2016): utterances with a sentiment from -3 to 3, their text, and stored features."""

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from models.config import StrictConfig
from models.data.files import data_path
from models.data.npz import NpzFile
from models.data.videos import Caption, VideoTextSplit, padded
from models.errors import UserError

LOWEST, HIGHEST = -3.0, 3.0
FEATURES = {"video": "f_video", "audio": "f_audio"}


class MOSIDataConfig(StrictConfig):
    """Which utterances and features. A relative path is looked up below `root` (default: MELTMATCH_DATA)."""

    name: Literal["mosi"] = "mosi"
    root: str | None = None
    path: str = "cmu_mosi/utterances.npz"
    """Arrays by utterance: `id` (VIDEO_NUMBER), `text`, `y`, `declare_part` (train or test), `f_video`, `f_audio`."""
    features: tuple[Literal["video", "audio"], ...] = Field(default=("video", "audio"), min_length=1, strict=False)
    """Which are put side by side."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training VIDEOS whose utterances are held out, always the same ones."""


def load_mosi(config: MOSIDataConfig) -> dict[str, VideoTextSplit]:
    """The splits train, validation (possibly empty) and test. Utterances without a label are left out and counted.

    Raises:
        UserError: the file is missing or malformed, a text is empty, or a label is outside -3 to 3.
    """
    path = data_path(config.root, config.path)
    file = NpzFile(path)
    arrays = {}
    for name in ("id", "text", "y", "declare_part", *(FEATURES[kind] for kind in config.features)):
        if name not in file.headers:
            raise UserError(f"{path}: holds no array {name!r}; expected one entry an utterance")
        arrays[name] = np.asarray(file.array(name))
    if len({len(array) for array in arrays.values()}) != 1:
        sizes = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise UserError(f"{path}: arrays differ in length ({sizes}); expected one entry an utterance in each")
    ids, texts, parts = ([str(value) for value in arrays[name]] for name in ("id", "text", "declare_part"))
    labels = torch.from_numpy(arrays["y"].astype(np.float32))
    together = np.concatenate([arrays[FEATURES[kind]] for kind in config.features], axis=1)
    features = torch.from_numpy(together.astype(np.float32))
    rows = _checked(path, ids, texts, labels, features)
    videos = sorted({ids[row].rpartition("_")[0] for row in rows if parts[row] == "train"})
    order = np.random.default_rng(0).permutation(len(videos))  # the same for every run
    held_out = {videos[number] for number in order[: round(config.validation * len(videos))]}
    chosen: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        if parts[row] not in ("train", "test"):
            raise UserError(f"{path}: declare_part of {ids[row]!r} is {parts[row]!r}; expected train or test")
        apart = parts[row] == "train" and ids[row].rpartition("_")[0] in held_out
        chosen["validation" if apart else parts[row]].append(row)
    return {name: _split(own, ids, texts, labels, features) for name, own in chosen.items()}


def _checked(path: Path, ids: list[str], texts: list[str], labels: Tensor, features: Tensor) -> list[int]:
    """The rows with a label."""
    missing = labels.isnan()
    outside = ~missing & ((labels < LOWEST) | (labels > HIGHEST))
    for wrong, what in (
        (outside, "a label outside -3 to 3"),
        (~features.isfinite().all(1), "a feature that is NaN or infinite"),
        (torch.tensor([not text.strip() for text in texts], dtype=torch.bool), "no text"),
    ):
        if bool(wrong.any()):
            first = ids[int(wrong.nonzero()[0])]
            raise UserError(f"{path}: {first!r} has {what} ({int(wrong.sum())} utterances do); mend or remove it")
    if bool(missing.any()):
        first = ids[int(missing.nonzero()[0])]
        what = f"{path}: {int(missing.sum())} of {len(ids)} utterances have no label ({first}, ...); left out"
        print(what, file=sys.stderr, flush=True)
    return [row for row in range(len(ids)) if not missing[row]]


def _split(rows: list[int], ids: list[str], texts: list[str], labels: Tensor, features: Tensor) -> VideoTextSplit:
    captions = [Caption(number, texts[row]) for number, row in enumerate(rows)]
    frames = padded([features[row : row + 1] for row in rows], at_most=1)
    return VideoTextSplit([ids[row] for row in rows], frames, captions, captions, labels[rows])
