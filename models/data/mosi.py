"""CMU-MOSI (Zadeh et al. 2016): utterances with a sentiment from -3 to 3, their text, and stored features."""

from collections import Counter
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.config import StrictConfig
from models.data.files import data_path
from models.data.stored import open_arrays
from models.data.videos import Caption, LeftOut, VideoTextSplit, held_out, padded
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
    """The splits train, validation (possibly empty) and test. Prints which utterances were left out, having no label.

    Raises:
        UserError: the file is missing or malformed, a text is empty, or a label is outside -3 to 3.
    """
    path = data_path(config.root, config.path)
    file = open_arrays(path)
    named = {name: file.strings(name) for name in ("id", "text", "declare_part")}
    stored = {"y": 1, **{FEATURES[kind]: 2 for kind in config.features}}  # how many axes each has
    for name in (*named, *stored):
        if name not in file.shapes:
            raise UserError(f"{path}: holds no array {name!r}; expected one entry an utterance")
        if len(file.shapes[name]) != stored.get(name, 1):
            raise UserError(f"{path}: array {name!r} is {file.shapes[name]}; expected one entry an utterance")
    if len({file.shapes[name][0] for name in (*named, *stored)}) != 1:
        sizes = ", ".join(f"{name} {file.shapes[name][0]}" for name in (*named, *stored))
        raise UserError(f"{path}: arrays differ in length ({sizes}); expected one entry an utterance in each")
    file.check_numbers(stored)
    ids, texts, parts = (texts or [] for texts in named.values())
    labels, *together = (file.opened(name)(slice(None)).float() for name in stored)
    features = torch.cat(together, dim=1)
    _check(path, ids, texts, labels, features)
    films = [id.rpartition("_")[0] for id in ids]
    labelled = (~labels.isnan()).tolist()
    trained = sorted(films[row] for row, part in enumerate(parts) if part == "train" and labelled[row])
    held = held_out(trained, config.validation)
    chosen: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, (id, film, part) in enumerate(zip(ids, films, parts, strict=True)):
        if part not in ("train", "test"):
            raise UserError(f"{path}: declare_part of {id!r} is {part!r}; expected train or test")
        chosen["validation" if part == "train" and film in held else part].append(row)
    return {name: _split(path, name, rows, ids, texts, labels, features) for name, rows in chosen.items()}


def _check(path: Path, ids: list[str], texts: list[str], labels: Tensor, features: Tensor) -> None:
    if repeated := [id for id, count in Counter(ids).items() if count > 1]:
        raise UserError(f"{path}: {repeated[0]!r} comes twice ({len(repeated)} utterances do); expected each once")
    outside = ~labels.isnan() & ((labels < LOWEST) | (labels > HIGHEST))
    for wrong, what in (
        (outside, "a label outside -3 to 3"),
        (~features.isfinite().all(1), "a feature that is NaN or infinite"),
        (torch.tensor([not text.strip() for text in texts], dtype=torch.bool), "no text"),
    ):
        if bool(wrong.any()):
            first = ids[int(wrong.nonzero()[0])]
            raise UserError(f"{path}: {first!r} has {what} ({int(wrong.sum())} utterances do); mend or remove it")


def _split(
    path: Path, name: str, rows: list[int], ids: list[str], texts: list[str], labels: Tensor, features: Tensor
) -> VideoTextSplit:
    kept = [row for row in rows if not labels[row].isnan()]
    left_out = None
    if len(kept) < len(rows):
        bare = tuple(ids[row] for row in rows if labels[row].isnan())
        left_out = LeftOut(path, name, bare, len(rows), "utterances have no label")
        left_out.say()
    captions = [Caption(number, texts[row]) for number, row in enumerate(kept)]
    frames = padded([features[row : row + 1] for row in kept], at_most=1)
    return VideoTextSplit([ids[row] for row in kept], frames, captions, captions, labels[kept], left_out)
