"""Opens whatever frames of videos come in: tar files and folders of pictures, folders of films."""

import os
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from models.data.film import Image
from models.data.pixels.films import FilmFrames, is_film
from models.data.pixels.indexed import FrameSource, Indexed
from models.data.pixels.pictures import FolderFrames, TarFrames, is_picture
from models.errors import UserError

__all__ = ["FrameSource", "open_frames"]

_EXPECTED = "expected a tar file of frames VIDEO/FRAME.jpg, a folder of such folders, or a folder of films VIDEO.mp4"


def open_frames(paths: Path | Sequence[Path], threads: int | None = None) -> FrameSource:
    """The videos of one or several tar files and folders, told apart by what they hold.

    Args:
        paths: each a tar file, a folder (searched with all folders in it) of folders of pictures, or one of films.
            A path that does not exist may hold *, ? or [...]: it stands for all that fit it.
        threads: that decode a film; default: as `models.data.film` has it.

    Raises:
        UserError: a path leads nowhere, holds no frames or two kinds of them, is damaged, or has a video that is also
            in another.
    """
    found = [_open(path, threads) for path in _expanded([paths] if isinstance(paths, Path) else paths)]
    return found[0] if len(found) == 1 else _Several(found)


class _Several(Indexed[Indexed[Any]]):
    """The videos of several sources."""

    def __init__(self, sources: Sequence[Indexed[Any]]) -> None:
        index: dict[str, Indexed[Any]] = {}
        for source in sources:
            for video in source.names():
                if index.setdefault(video, source) is not source:
                    raise UserError(
                        f"video {video!r} is in {index[video].where} and in {source.where}; expected it in one of them"
                    )
        super().__init__(", ".join(source.where for source in sources), index)

    def at(self, video: str, places: Sequence[float]) -> list[Image]:
        return self.index[video].at(video, places)


def _expanded(paths: Sequence[Path]) -> list[Path]:
    if not paths:
        raise UserError(f"no place of frames is given; {_EXPECTED}")
    found: list[Path] = []
    for path in paths:
        pattern = not path.exists() and any(letter in str(path) for letter in "*?[")
        fitting = sorted(map(Path, glob(str(path)))) if pattern else [path]  # noqa: PTH207 (may be absolute)
        if not fitting:
            raise UserError(f"{path}: nothing fits this pattern; {_EXPECTED}")
        found += fitting
    return list(dict.fromkeys(found))


def _open(path: Path, threads: int | None) -> Indexed[Any]:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; {_EXPECTED}")
        return TarFrames(path)
    folders: list[Path] = []
    films: list[Path] = []
    for folder, inner, names in os.walk(path):
        inner.sort()
        films += [Path(folder, name) for name in sorted(names) if is_film(name)]
        if Path(folder) != path and any(is_picture(name) for name in names):
            folders.append(Path(folder))
    if folders and films:
        raise UserError(
            f"{path}: holds films ({films[0].name!r}) and folders of frames ({folders[0].name!r}); give the path of one"
        )
    if films:
        return FilmFrames(path, films, threads)
    if folders:
        return FolderFrames(path, folders)
    raise UserError(f"{path}: holds neither films nor folders of frames; {_EXPECTED}")
