"""Labelled small images: CIFAR-100 in its three forms (sheets, python pickles, binary records), and digits."""

import io
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.files import read_lines, split_lines
from models.data.unpickling import load_plain, numbers
from models.errors import UserError

Split = Literal["train", "test"]
SIDE, PIXELS = 32, 3 * 32 * 32
SHEET_ROWS, SHEET_COLUMNS = 25, 40
PYTHON, BINARY = "cifar-100-python", "cifar-100-binary"


@dataclass(frozen=True)
class ImageSet:
    """n labelled images."""

    images: Tensor
    """(n, 3, h, w) uint8, red, green, blue."""
    labels: Tensor
    """(n,) int64, each a place in `classes`."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` (m,), in their order."""
        return ImageSet(self.images[indices], self.labels[indices], self.classes)


def hold_out(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Splits off a random `fraction` (0 <= fraction < 1), the same for the same arguments -> the rest, what was held.

    Both keep the order of `images`.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction}; expected 0 <= fraction < 1")
    order = np.random.default_rng(seed).permutation(len(images))
    held = torch.zeros(len(images), dtype=torch.bool)
    held[torch.from_numpy(order[: round(fraction * len(images))])] = True
    return images.take(torch.nonzero(~held).flatten()), images.take(torch.nonzero(held).flatten())


def digits(split: Split) -> ImageSet:
    """scikit-learn's 8x8 handwritten digits, grey in all three channels: 1,300 to train on, 497 to test."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("data.name=digits: scikit-learn is not installed; run `pip install scikit-learn`") from None
    stored = load_digits()
    part = slice(None, 1300) if split == "train" else slice(1300, None)
    grey = torch.from_numpy((stored.images[part] * 255 / 16).round().astype(np.uint8))  # stored as 0 to 16
    labels = torch.from_numpy(stored.target[part].astype(np.int64))
    return ImageSet(grey[:, None].repeat(1, 3, 1, 1), labels, tuple("0123456789"))


def read_cifar100(path: Path, split: Split) -> ImageSet:
    """CIFAR-100 with its 100 fine classes, from any of these, `path` being the thing itself or the folder it is in:

    * sheets: a folder with `train.tar` and `test.tar` of WebP sheets `NUMBER.webp` (25 rows of 40 tiles of 32x32
      pixels, in data-set order), `train_labels.npy` and `test_labels.npy` (uint8), `classes.txt` (one a line);
    * the official python version: folder `cifar-100-python` or `cifar-100-python.tar.gz`;
    * the official binary version: folder `cifar-100-binary` or `cifar-100-binary.tar.gz`.

    Raises UserError when `path` is none of them, or a file is missing, cut short or malformed (it is named).
    """
    if (path / f"{split}.tar").is_file():
        return _read_sheets(path, split)
    wanted = {PYTHON: (split, "meta"), BINARY: (f"{split}.bin", "fine_label_names.txt")}
    every_name = {name for names in wanted.values() for name in names}
    within = [path / f"{version}{ending}" for version in wanted for ending in ("", ".tar.gz")]
    for place in [path, *within]:
        files = _read_files(place, every_name)
        for version, names in wanted.items():
            if names[0] not in files:
                continue
            if names[1] not in files:
                raise UserError(
                    f"{place}: has {names[0]!r} but no {names[1]!r}; expected both; unpack the archive again"
                )
            (data, data_path), (meta, meta_path) = (files[name] for name in names)
            if version == PYTHON:
                return _read_python(data, data_path, meta, meta_path)
            return _read_binary(data, data_path, meta, meta_path)
    raise UserError(
        f"{path}: {'no CIFAR-100 is there' if path.exists() else 'no such folder or file'}; expected {split}.tar "
        f"(sheets), {PYTHON}/{split}, {BINARY}/{split}.bin, {PYTHON}.tar.gz or {BINARY}.tar.gz; give the path of one"
    )


def _read_files(place: Path, names: Collection[str]) -> dict[str, tuple[bytes, Path]]:
    """Those files of a folder, or of one of the archives, that are there, each with what to call it in errors."""
    if place.is_dir():
        return {name: (_bytes(place / name), place / name) for name in names if (place / name).is_file()}
    if not place.is_file():
        return {}
    found = {}
    for member, data in _untar(place, "r:gz", lambda name: name.name in names and name.parent.name in (PYTHON, BINARY)):
        found[member.name] = (data, place / member)
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a file of CIFAR-100") from None


def _untar(
    archive: Path, mode: Literal["r:", "r:gz"], wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The wanted files of an archive, in memory: nothing is written to disk, so no member can choose a place there."""
    try:
        with tarfile.open(archive, mode) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() and wanted(PurePosixPath(member.name)) else None
                if stream is not None:
                    yield PurePosixPath(member.name), stream.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        kind = ".tar.gz" if mode == "r:gz" else ".tar"
        raise UserError(f"{archive}: is no {kind} file or is cut short ({error}); download it again") from None


def _image_set(images: NDArray[np.uint8], labels: Sequence[int], classes: tuple[str, ...], path: Path) -> ImageSet:
    """What has been read, once it fits together; `path` is the file of labels."""
    if len(images) != len(labels):
        raise UserError(f"{path}: {len(labels)} labels for {len(images)} images; expected one each")
    for number, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise UserError(
                f"{path}: label {label} of image {number} is out of range; expected 0 to {len(classes) - 1}, as there "
                f"are {len(classes)} classes"
            )
    return ImageSet(torch.from_numpy(images), torch.tensor(labels, dtype=torch.long), classes)


# Sheets


def _read_sheets(folder: Path, split: Split) -> ImageSet:
    archive, labels_path = folder / f"{split}.tar", folder / f"{split}_labels.npy"
    sheets: dict[int, bytes] = {}
    for name, sheet in _untar(archive, "r:", lambda name: True):
        if name.suffix != ".webp" or not (name.stem.isascii() and name.stem.isdigit()):
            raise UserError(f"{archive}: holds {str(name)!r}; expected only sheets named NUMBER.webp; remove it")
        if int(name.stem) in sheets:
            raise UserError(f"{archive}: sheet {int(name.stem)} comes twice; expected each number once")
        sheets[int(name.stem)] = sheet
    images = np.empty((len(sheets), SHEET_ROWS * SHEET_COLUMNS, 3, SIDE, SIDE), np.uint8)
    for place, number in enumerate(sorted(sheets)):
        images[place] = _tiles(sheets[number], f"{archive}: sheet {number}")
    try:
        labels = np.load(labels_path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{labels_path}: no such file; expected the labels of {archive}") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{labels_path}: is no .npy file or is cut short ({error}); write it again") from None
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8 or labels.ndim != 1:
        raise UserError(f"{labels_path}: is {_described(labels)}; expected a 1-D array of uint8")
    classes = tuple(line for _, line in read_lines(folder / "classes.txt"))
    return _image_set(images.reshape(-1, 3, SIDE, SIDE), labels.tolist(), classes, labels_path)


def _described(stored: Any) -> str:
    return f"of type {stored.dtype} and shape {stored.shape}" if isinstance(stored, np.ndarray) else "no single array"


def _tiles(sheet: bytes, where: str) -> NDArray[np.uint8]:
    """(1000, 3, 32, 32) from one WebP picture; `where` is for the errors."""
    from PIL import Image

    expected = SHEET_COLUMNS * SIDE, SHEET_ROWS * SIDE
    try:
        with Image.open(io.BytesIO(sheet), formats=["WEBP"]) as picture:
            if picture.size != expected:
                raise UserError(
                    f"{where} has {picture.width}x{picture.height} pixels; expected {expected[0]}x{expected[1]}: "
                    f"{SHEET_ROWS} rows of {SHEET_COLUMNS} tiles of {SIDE}x{SIDE}"
                )
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is no WebP picture or is cut short ({error}); write it again") from None
    tiles = pixels.reshape(SHEET_ROWS, SIDE, SHEET_COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(-1, 3, SIDE, SIDE)


# The official binary version


def _read_binary(data: bytes, path: Path, names: bytes, names_path: Path) -> ImageSet:
    """Records of 3074 bytes: coarse label, fine label, then the red, the green and the blue plane row by row."""
    size = 2 + PIXELS
    if len(data) % size:
        raise UserError(f"{path}: {len(data)} bytes are no whole records of {size}; it is cut short; download it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    images = records[:, 2:].copy().reshape(-1, 3, SIDE, SIDE)
    classes = tuple(line for _, line in split_lines(names, names_path))
    return _image_set(images, records[:, 1].tolist(), classes, path)


# The official python version


def _unpickle(data: bytes, path: Path, *keys: str) -> list[Any]:
    """The values of some keys of the dictionary in a file."""
    stored = load_plain(io.BytesIO(data), path, "CIFAR-100")
    for key in keys:
        if not isinstance(stored, dict) or key.encode() not in stored:
            raise UserError(f"{path}: holds no {key!r}; expected a file of the archive {PYTHON}.tar.gz")
    return [stored[key.encode()] for key in keys]


def _read_python(data: bytes, path: Path, meta: bytes, meta_path: Path) -> ImageSet:
    """Dictionaries with `data` (n, 3072) uint8, planes as in the binary version, and `fine_labels`."""
    array, labels = _unpickle(data, path, "data", "fine_labels")
    (names,) = _unpickle(meta, meta_path, "fine_label_names")
    try:
        rows = numbers(array)
    except ValueError as error:
        raise UserError(f"{path}: 'data' {error}; expected uint8 of shape (n, {PIXELS}); download it again") from None
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != PIXELS:
        raise UserError(
            f"{path}: 'data' is {_described(rows)}; expected uint8 of shape (n, {PIXELS}); download it again"
        )
    rows = rows.copy(order="C")  # in memory order, and what a pickle holds may be read-only
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise UserError(f"{path}: 'fine_labels' is no list of whole numbers; download the archive again")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise UserError(f"{meta_path}: 'fine_label_names' is no list of names; download the archive again")
    classes = tuple(name.decode(errors="replace") for name in names)
    return _image_set(rows.reshape(-1, 3, SIDE, SIDE), labels, classes, path)
