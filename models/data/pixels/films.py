"""Frames of videos that are films: decoded at the places that are asked for, upright and with square pixels."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from models.data.film import Film, Image, frames, stills
from models.data.pixels.indexed import Indexed
from models.errors import UserError

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".gif", ".mov", ".m4v")


class FilmFrames(Indexed[Path]):
    """Video files, each named like its video.

    The places of a video are read in one pass, from the nearest key frame before each where that skips something.
    """

    def __init__(self, path: Path, films: Iterable[Path], threads: int | None = None) -> None:
        """
        Args:
            path: where the films are, for errors.
            threads: that decode a film; default: as `models.data.film` has it.

        Raises:
            UserError: two films have the same name.
        """
        index: dict[str, Path] = {}
        for film in films:
            if film.stem in index:
                raise UserError(
                    f"{path}: video {film.stem!r} is {str(index[film.stem])!r} and {str(film)!r}; expected one file"
                )
            index[film.stem] = film
        super().__init__(str(path), index)
        self.threads = threads
        self.seconds: dict[str, float] = {}

    def at(self, video: str, places: Sequence[float]) -> list[Image]:
        film = self.index[video]
        try:
            if video not in self.seconds:
                self.seconds[video] = _seconds(film, self.threads)
            order = np.argsort(places, kind="stable")
            times = [self.seconds[video] * places[number] for number in order]
            shown = list(stills(film, times, threads=self.threads))
        except UserError as error:  # names the file, which need not be what the user calls the video
            raise UserError(f"video {video!r}: {error}") from None
        return [shown[row] for row in np.argsort(order)]


def _seconds(path: Path, threads: int | None) -> float:
    """How long a film is; one that does not say so is decoded to its end."""
    stated = Film.open(path, threads).seconds
    if stated is not None and stated > 0:
        return stated
    return max((frame.end for frame in frames(path, side=1)), default=0.0)


def is_film(name: str) -> bool:
    """Whether a file's name is a film's; hidden files are none."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
