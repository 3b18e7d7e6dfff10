"""Converts the pickles that UniVL publishes for MSR-VTT and YouCook2, once, to files that hold nothing but data.

    python -m models.data.univl_pickles SOURCE TARGET

A pickle of features, a dictionary from video ids to arrays (F, D), becomes TARGET.safetensors or TARGET.npz with one
array a video; a pickle of captions, a dictionary from video ids to dictionaries with the arrays `start`, `end`, `text`
and perhaps `transcript`, becomes TARGET.json. Pickles are read by an unpickler that looks up no name that they contain.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tqdm import tqdm  # type: ignore[import-untyped]

from models.data.files import atomic_path
from models.data.unpickling import Scalar, load_plain, numbers, values
from models.errors import UserError

WHAT = "UniVL"
COLUMNS = ("start", "end", "text")


class _Watched:
    """A file that shows on a terminal how much of it has been read."""

    def __init__(self, file: IO[bytes], bar: Any) -> None:
        self._file, self._bar = file, bar

    def read(self, size: int = -1) -> bytes:
        return self._seen(self._file.read(size))

    def readline(self) -> bytes:
        return self._seen(self._file.readline())

    def _seen(self, data: bytes) -> bytes:
        self._bar.update(len(data))
        return data


def _videos(source: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a dictionary by video id."""
    try:
        size, file = source.stat().st_size, source.open("rb")
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); expected a pickle of {WHAT}") from None
    bar = tqdm(total=size, desc=source.name, unit="B", unit_scale=True, delay=2, disable=None, leave=False)
    with file, bar:
        stored = load_plain(cast(IO[bytes], _Watched(file, bar)), source, WHAT)
    if not isinstance(stored, dict) or not stored:
        raise UserError(f"{source}: is no dictionary by video id; expected a pickle of {WHAT}")
    for id, value in stored.items():
        name = id.decode(errors="replace") if isinstance(id, bytes) else id
        if not isinstance(name, str) or not name:
            raise UserError(f"{source}: has the key {id!r:.60}; expected video ids")
        yield name, value


def convert_features(source: Path, target: Path) -> list[str]:
    """Writes a pickle of features to .safetensors or .npz -> the videos with zero frames, which are left out.

    float16 and float32 stay; others become float32. Memory is taken for about twice the source.

    Raises UserError for another target, a source that is missing, malformed or might run code, and for a video whose
    features are no (F, D) numbers, of another width than those before, or not finite.
    """
    writer = _WRITERS.get(target.suffix)
    if writer is None:
        raise UserError(f"{target}: unknown kind of file; expected .safetensors or .npz for features")
    kept: dict[str, NDArray[Any]] = {}
    empty: list[str] = []
    width = None
    for video, value in _videos(source):
        try:
            array = numbers(value)
        except ValueError as error:
            raise UserError(f"{source}: the value of {video!r} {error}; expected features (F, D)") from None
        if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.shape[1]:
            raise UserError(f"{source}: {video!r} is {array.dtype} {array.shape}; expected features (F, D)")
        if not len(array):
            empty.append(video)
            continue
        if (width := width or array.shape[1]) != array.shape[1]:
            raise UserError(f"{source}: features of {video!r} have {array.shape[1]} dimensions; expected {width}")
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            array = np.ascontiguousarray(array, np.float16 if array.dtype.str.endswith("f2") else np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{source}: a feature of {video!r} is NaN or infinite; expected finite float32 numbers")
        kept[video] = array
    if not kept:
        raise UserError(f"{source}: no video has frames; expected features (F, D)")
    with atomic_path(target) as temporary:
        writer(kept, temporary)
    return empty


def _write_npz(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    # Not numpy.savez, whose own arguments forbid some ids; uncompressed, so that a reader can map it.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


_WRITERS: dict[str, Callable[[dict[str, NDArray[Any]], Path], None]] = {
    ".safetensors": save_file,
    ".npz": _write_npz,
}


def convert_captions(source: Path, target: Path) -> None:
    """Writes a pickle of captions to .json: by video id, lists `start`, `end`, `text` and perhaps others as long.

    Raises UserError for another target, a source that is missing, malformed or might run code, and for a video whose
    entry lacks one of these or has lists of several lengths.
    """
    if target.suffix != ".json":
        raise UserError(f"{target}: unknown kind of file; expected .json for captions")
    videos: dict[str, dict[str, list[Scalar]]] = {}
    for video, entry in _videos(source):
        if not isinstance(entry, dict):
            raise UserError(f"{source}: {video!r} is no dictionary; expected 'start', 'end' and 'text'")
        columns: dict[str, list[Scalar]] = {}
        for key, value in entry.items():
            name = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
            try:
                columns[name] = values(value)
            except ValueError as error:
                raise UserError(f"{source}: {name!r} of {video!r} {error}; expected a plain list") from None
        if absent := [name for name in COLUMNS if name not in columns]:
            raise UserError(f"{source}: {video!r} has no {absent[0]!r}; expected 'start', 'end' and 'text'")
        if len({len(column) for column in columns.values()}) != 1:
            raise UserError(f"{source}: the lists of {video!r} differ in length; expected a place a segment in each")
        videos[video] = columns
    try:
        text = json.dumps(videos, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise UserError(f"{source}: cannot be written as JSON ({error}); expected finite numbers and texts") from None
    with atomic_path(target) as temporary:
        temporary.write_bytes(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.data.univl_pickles", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.target.suffix == ".json":
            convert_captions(chosen.source, chosen.target)
        elif empty := convert_features(chosen.source, chosen.target):
            print(f"left out {len(empty)} videos with zero frames: {', '.join(empty[:3])}, ...", file=sys.stderr)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(chosen.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
