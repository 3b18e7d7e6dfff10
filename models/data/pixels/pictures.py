"""Frames of videos that were stored as pictures: in tar files, read where they lie, and in folders."""

import math
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from models.data.film import Image
from models.data.pixels.indexed import Indexed
from models.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LAYOUT = "expected VIDEO/FRAME.jpg (or .png, .webp)"


class Member(NamedTuple):
    """A frame in a tar file: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


class TarFrames(Indexed[tuple[Member, ...]]):
    """An uncompressed tar file of pictures `VIDEO/FRAME.jpg`, also below further folders.

    The folder right above a frame names the video; a video's frames are in the order of the numbers in their names.
    Of members of the same name the last counts, as when a tar file that was updated is unpacked. One pass over the
    headers finds them all; nothing is unpacked, and the file is opened anew for each video that is read, so that no
    process shares a place in it with another.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError: `path` is missing, compressed, no tar file or cut short; a member's name is absolute or
        leads out of the archive; a frame is a link; a video's frames lie in two folders; or there are none."""
        self.path = path
        super().__init__(str(path), _by_video(path, _members(path)))

    def at(self, video: str, places: Sequence[float]) -> list[Image]:
        found = self.index[video]
        numbers = [_number(place, len(found)) for place in places]
        data = {}
        try:
            with self.path.open("rb") as file:
                for number in sorted(set(numbers)):
                    file.seek(found[number].offset)
                    data[number] = file.read(found[number].size)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); expected a tar file of frames") from None
        images = {
            number: decoded(data[number], f"{self.path}: frame {found[number].name!r} of video {video!r}")
            for number in data
        }
        return [images[number] for number in numbers]


class FolderFrames(Indexed[Path]):
    """Folders of pictures, one a video, named like it; a video's frames are in the order of the numbers in their
    names."""

    def __init__(self, path: Path, folders: Iterable[Path]) -> None:
        """`path` is for errors. Raises UserError: two folders have the same name."""
        index: dict[str, Path] = {}
        for folder in folders:
            _claim(index, folder.name, folder, path)
        super().__init__(str(path), index)

    def at(self, video: str, places: Sequence[float]) -> list[Image]:
        folder = self.index[video]
        try:
            names = sorted((name for name in (path.name for path in folder.iterdir()) if is_picture(name)), key=_order)
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); expected frames of a video") from None
        if not names:
            raise UserError(f"{folder}: holds no frames of video {video!r} any more; {_LAYOUT}")
        numbers = [_number(place, len(names)) for place in places]
        images = {}
        for number in sorted(set(numbers)):
            path = folder / names[number]
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: frame of video {video!r} cannot be read ({error.strerror})") from None
            images[number] = decoded(data, f"{path}: frame of video {video!r}")
        return [images[number] for number in numbers]


def decoded(data: bytes, where: str) -> Image:
    """A JPEG, PNG or WebP picture -> (h, w, 3) RGB; grey becomes RGB, transparency is dropped.

    Raises:
        UserError: it is none, or is cut short; `where` says which.
    """
    image = None
    if data.startswith(_BEGINNINGS):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error:  # sizes that no picture has
            image = None
    if image is None:
        raise UserError(f"{where} cannot be decoded; expected a whole JPEG, PNG or WebP picture; write it again")
    return np.asarray(image, np.uint8)


def is_picture(name: str) -> bool:
    """Whether a file's name is a frame's; hidden files are none."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _number(place: float, count: int) -> int:
    """The frame of `count` that is shown at `place`."""
    return min(math.floor(place * count), count - 1)


def _order(name: str) -> tuple[list[str | int], str]:
    """Sorts 9 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _claim(index: dict[str, Path], video: str, folder: Path, where: Path) -> None:
    if index.setdefault(video, folder) != folder:
        raise UserError(
            f"{where}: video {video!r} is in {str(index[video])!r} and in {str(folder)!r}; expected one folder a video"
        )


def _members(path: Path) -> list[tuple[PurePosixPath, Member]]:
    """Every frame in a tar file, in its order, with the whole of its name; again where the file was updated."""
    try:
        with path.open("rb") as file:
            beginning = file.read(8)
        for magic, kind in _COMPRESSED.items():
            if beginning.startswith(magic):
                raise UserError(
                    f"{path}: is compressed ({kind}); frames are read where they lie, which takes a plain tar file: "
                    "decompress it"
                )
        found, end = [], 0
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                setattr(tar, "members", [])  # noqa: B010 (else it keeps every header; its types hide it)
                name = PurePosixPath(member.name)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if name.is_absolute() or ".." in name.parts:
                    raise UserError(f"{path}: member {member.name!r} leads out of the archive; {_LAYOUT}")
                if member.isdir() or not is_picture(name.name):
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{path}: member {member.name!r} is a link; expected the frame itself")
                found.append((name, Member(name.name, member.offset_data, member.size)))
        with path.open("rb") as file:  # tarfile takes a header that is cut short or damaged for the end
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end of archive behind its last member")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a tar file of frames") from None
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path}: is no tar file, or is cut short ({error}); {_LAYOUT} in a whole one") from None
    return found


def _by_video(path: Path, members: Sequence[tuple[PurePosixPath, Member]]) -> Mapping[str, tuple[Member, ...]]:
    folders: dict[str, Path] = {}
    frames: dict[str, dict[str, Member]] = {}
    for name, member in members:
        if not name.parent.name:
            raise UserError(f"{path}: member {member.name!r} is in no folder; {_LAYOUT}")
        _claim(folders, name.parent.name, Path(name.parent), path)
        frames.setdefault(name.parent.name, {})[member.name] = member
    if not frames:
        raise UserError(f"{path}: holds no frames; {_LAYOUT}")
    return {
        video: tuple(sorted(found.values(), key=lambda member: _order(member.name))) for video, found in frames.items()
    }
