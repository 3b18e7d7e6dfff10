"""Arrays of an .npz file: their headers without their data, stored ones mapped instead of loaded, pickles refused."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from models.errors import UserError


class Header(NamedTuple):
    """Shape, type and memory order of an array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]


def _read_header(stream: IO[bytes]) -> Header:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return Header(*npy.read_array_header_1_0(stream))
    return Header(*npy.read_array_header_2_0(stream))


class NpzFile:
    """An .npz file. `headers` are by array name; UserError if it is missing, no .npz, truncated, or needs pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: dict[str, Header] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    if name in self.headers:
                        raise UserError(f"{path}: array {name!r} comes more than once; expected each name once")
                    with archive.open(member) as stream:
                        header = _read_header(stream)
                        size = stream.tell() + math.prod(header.shape) * header.dtype.itemsize
                    if size != member.file_size and not header.dtype.hasobject:
                        raise ValueError(f"array {name!r} takes {member.file_size} bytes, not {size}")
                    self.headers[name] = header
                    self._members[name] = member
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; expected a .npz file") from None
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise UserError(f"{path}: is no .npz file or is cut short ({error}); write it again") from None
        for name, header in self.headers.items():
            if header.dtype.hasobject:
                raise UserError(
                    f"{path}: array {name!r} holds Python objects, which are never unpickled; expected numbers or "
                    "unicode strings; save it without dtype=object"
                )

    def array(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """An array: mapped read-only if it is stored uncompressed (as numpy.savez does), else loaded."""
        member, header = self._members[name], self.headers[name]
        try:
            if member.compress_type == zipfile.ZIP_STORED and math.prod(header.shape) > 0:
                return np.memmap(
                    self.path,
                    header.dtype,
                    "r",
                    self._data_offset(member),
                    header.shape,
                    "F" if header.fortran else "C",
                )
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
                array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = npy.read_array(stream, allow_pickle=False)
                return array
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise UserError(f"{self.path}: array {name!r} cannot be read ({error}); write the file again") from None

    def _data_offset(self, member: zipfile.ZipInfo) -> int:
        """Where a stored array's numbers begin in the file."""
        with self.path.open("rb") as file:
            file.seek(member.header_offset + 26)  # in a zip entry's local header: the lengths of its two last fields
            name_and_extra = file.read(4)
            file.seek(int.from_bytes(name_and_extra[:2], "little") + int.from_bytes(name_and_extra[2:], "little"), 1)
            _read_header(file)
            return file.tell()
