"""Arrays by name in .npz, .safetensors and HDF5 files, behind one face; what can be mapped is not loaded."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.data.npz import NpzFile
from models.errors import UserError

Rows = slice | Sequence[int] | NDArray[np.int64]
Reader = Callable[[Rows], Tensor]
SUFFIXES = (".npz", ".safetensors", ".h5", ".hdf5")
READ_ERRORS = (SafetensorError, OSError)
"""What reading from an open file may raise, when it was replaced meanwhile or a disk fails."""


class ArrayFile(ABC):
    """An open file of arrays.

    Attributes:
        path: the file.
        shapes: by array name.
        not_numbers: the types of those arrays that hold something else, by name.
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], not_numbers: dict[str, str]) -> None:
        self.path, self.shapes, self.not_numbers = path, shapes, not_numbers

    @abstractmethod
    def opened(self, name: str) -> Reader:
        """A function from rows to a copy of those rows of an array of numbers, in the floating-point type that they are
        stored in if it has 16 or 32 bits, else in float32."""

    @abstractmethod
    def integers(self, name: str) -> NDArray[np.int64]:
        """A whole array of whole numbers."""

    @abstractmethod
    def strings(self, name: str) -> list[str] | None:
        """A list of strings; None if there is none of this name. UserError for something else."""

    def check_numbers(self, names: Iterable[str]) -> None:
        """UserError for the first of these arrays that holds something else than numbers."""
        for name in names:
            if name in self.not_numbers:
                raise UserError(f"{self.path}: array {name!r} is of type {self.not_numbers[name]}; expected numbers")


def open_arrays(path: Path) -> ArrayFile:
    """Opens a file of arrays by its suffix: .npz, .safetensors, .h5 or .hdf5.

    Raises UserError for another suffix, a missing, foreign or truncated file, and arrays that only pickle could read.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of feature file; expected .npz, .safetensors, .h5 or .hdf5")
    if path.suffix == ".npz":
        return _NumpyFile(path)
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _Hdf5File(path)


def _missing(path: Path) -> UserError:
    return UserError(f"{path}: no such file; expected a feature file (.npz, .safetensors or .h5)")


def _floats(array: NDArray[Any]) -> Tensor:
    # A float64 too large for float32 becomes infinity, which the stores report with its id.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float16 if array.dtype.char == "e" else np.float32))


class _NumpyFile(ArrayFile):
    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise _missing(path)
        self.file = NpzFile(path)
        headers = self.file.headers
        super().__init__(
            path,
            {name: header.shape for name, header in headers.items()},
            {name: str(header.dtype) for name, header in headers.items() if header.dtype.kind not in "fiu"},
        )

    def opened(self, name: str) -> Reader:
        array = self.file.array(name)
        return lambda rows: _floats(array[rows])

    def integers(self, name: str) -> NDArray[np.int64]:
        return np.array(self.file.array(name), np.int64)

    def strings(self, name: str) -> list[str] | None:
        header = self.file.headers.get(name)
        if header is None:
            return None
        if header.dtype.kind != "U" or len(header.shape) != 1:
            raise UserError(
                f"{self.path}: {name!r} is {header.dtype} {header.shape}; expected a 1-D array of unicode strings"
            )
        return [str(text) for text in self.file.array(name)]


class _SafetensorsFile(ArrayFile):
    """Numbers are tensors; a list of strings is a JSON list in the metadata."""

    def __init__(self, path: Path) -> None:
        try:
            self.file: Any = safe_open(path, framework="pt")
        except FileNotFoundError:
            raise _missing(path) from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: is no safetensors file or is cut short ({error}); write it again") from None
        names = self.file.keys()
        super().__init__(path, {name: tuple(self.file.get_slice(name).get_shape()) for name in names}, {})

    def opened(self, name: str) -> Reader:
        # The file is mapped, so a tensor takes memory only for the pages that are read.
        stored: Tensor = self.file.get_tensor(name)

        def read(rows: Rows) -> Tensor:
            chosen = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
            short = stored.dtype in (torch.float16, torch.bfloat16)
            return stored[chosen].to(stored.dtype if short else torch.float32, copy=True)

        return read

    def integers(self, name: str) -> NDArray[np.int64]:
        whole: NDArray[np.int64] = self.file.get_tensor(name).long().numpy()
        return whole

    def strings(self, name: str) -> list[str] | None:
        listed = (self.file.metadata() or {}).get(name)
        if listed is None:
            return None
        try:
            texts = json.loads(listed)
        except json.JSONDecodeError:
            texts = None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.path}: metadata {name!r} is malformed; expected a JSON list of strings")
        return texts


class _Hdf5File(ArrayFile):
    """Data sets, those inside groups by their path. Links to other files are not followed."""

    def __init__(self, path: Path) -> None:
        import h5py

        if not path.exists():
            raise _missing(path)
        try:
            self.file: Any = h5py.File(path, "r", locking="best-effort")
            names: list[str] = []
            self.file.visit(names.append)
            found = {name: item for name in names if isinstance(item := self.file[name], h5py.Dataset)}
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{path}: is no HDF5 file or is cut short ({error}); write it again") from None
        for name, item in found.items():
            if item.is_virtual or item.external:
                raise UserError(f"{path}: data set {name!r} lies in other files; expected all of it in this one")
        super().__init__(
            path,
            {name: item.shape or () for name, item in found.items()},
            {name: str(item.dtype) for name, item in found.items() if item.dtype.kind not in "fiu"},
        )

    def opened(self, name: str) -> Reader:
        stored = self.file[name]

        def read(rows: Rows) -> Tensor:
            if isinstance(rows, slice) or len(rows) == 0:
                return _floats(stored[rows if isinstance(rows, slice) else slice(0)])
            # HDF5 reads scattered rows slowly, and only in ascending order: read runs of neighbours instead.
            needed, places = np.unique(rows, return_inverse=True)
            runs = np.split(needed, np.flatnonzero(np.diff(needed) != 1) + 1)
            return _floats(np.concatenate([stored[run[0] : run[-1] + 1] for run in runs])[places])

        return read

    def integers(self, name: str) -> NDArray[np.int64]:
        return np.array(self.file[name][()], np.int64)

    def strings(self, name: str) -> list[str] | None:
        import h5py

        if name not in self.shapes:
            return None
        stored = self.file[name]
        if h5py.check_string_dtype(stored.dtype) is None or len(stored.shape) != 1:
            raise UserError(f"{self.path}: {name!r} is {stored.dtype} {stored.shape}; expected a 1-D array of strings")
        try:
            return list(stored.asstr()[()])
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: a string of {name!r} is not UTF-8; write it as UTF-8") from None
