"""Stored frame features: several rows a video, from npz files in two layouts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.data.npz import NpzFile
from models.errors import UserError

TABLE, ROWS = "features", "video_shot_sub_frame"
NAMED = 3
"""Ids that an error names before it only counts."""


class FrameStore:
    """Frame features by video id.

    Attributes:
        path: the file.
        width: D, the dimensions of a frame's feature.
    """

    def __init__(self, path: Path, width: int | None = None) -> None:
        """Opens an `.npz` file with one array (F, D) a video id, or with a table `features` (n, D) and an integer array
        `video_shot_sub_frame` (n, 4), whose first column N stands for `videoN` and whose others order its frames.

        Raises:
            UserError: the file is missing, malformed, or its features are not `width` wide.
        """
        self.path = path
        self._file = NpzFile(path)
        headers = self._file.headers
        self._rows: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
        if ROWS in headers:
            self.width = self._table()
        else:
            shapes = {name: header.shape for name, header in headers.items()}
            if not shapes:
                raise UserError(f"{path}: holds no arrays; expected frame features")
            wrong = next(((n, s) for n, s in shapes.items() if len(s) != 2), None)
            if wrong is not None:
                raise UserError(f"{path}: array {wrong[0]!r} has shape {wrong[1]}; expected (frames, dimensions)")
            first = next(iter(shapes))
            self.width = shapes[first][1]
            ragged = next((n for n, s in shapes.items() if s[1] != self.width), None)
            if ragged is not None:
                raise UserError(
                    f"{path}: features of {ragged!r} have {shapes[ragged][1]} dimensions and those of {first!r} "
                    f"{self.width}; expected one width"
                )
        if width is not None and self.width != width:
            raise UserError(f"{path}: features have {self.width} dimensions; expected {width}")

    def _table(self) -> int:
        shape, index = (self._file.headers[name].shape if name in self._file.headers else () for name in (TABLE, ROWS))
        if len(shape) != 2 or len(index) != 2 or index[0] != shape[0] or index[1] < 1:
            raise UserError(
                f"{self.path}: 'features' is {shape} and '{ROWS}' {index}; expected (n, dimensions) and (n, 4)"
            )
        places = np.asarray(self._file.array(ROWS)).astype(np.int64)
        order = np.lexsort(places.T[::-1])  # by video, then by the other columns
        numbers, starts = np.unique(places[order, 0], return_index=True)
        parts = np.split(order, starts[1:])
        self._rows = {f"video{number}": part for number, part in zip(numbers.tolist(), parts, strict=True)}
        return shape[1]

    def __contains__(self, video: str) -> bool:
        return video in (self._rows or self._file.headers)

    def missing(self, videos: Sequence[str]) -> list[str]:
        """Those without features, in their order."""
        return [video for video in videos if video not in self]

    def read(self, videos: Sequence[str]) -> list[Tensor]:
        """(F, D) of each video, in the type they are stored in, frames in the order of time.

        Raises:
            UserError: a video has no features, no frames, or NaN or infinity among its features.
        """
        if missing := self.missing(videos):
            named = ", ".join(missing[:NAMED])
            raise UserError(f"{self.path}: no features of {len(missing)} of {len(videos)} videos ({named}, ...)")
        table = self._file.array(TABLE) if self._rows else None
        found = []
        for video in videos:
            array = self._file.array(video) if table is None else table[self._rows[video]]
            if len(array) == 0:
                raise UserError(f"{self.path}: {video!r} has no frames; extract its features again")
            features = torch.from_numpy(np.array(array))
            if not bool(features.isfinite().all()):
                raise UserError(f"{self.path}: a feature of {video!r} is NaN or infinite; extract its features again")
            found.append(features)
        return found
