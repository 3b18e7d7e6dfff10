"""Stored frame features: several rows a video, one array each, or a table whose rows say what they belong to.

Shape legend: F frames of a video, D dimensions of a frame's feature, n rows of a table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.features import TABLE, read_index
from models.data.stored import READ_ERRORS, ArrayFile, Rows, open_arrays
from models.errors import UserError

PLACES = "video_shot_sub_frame"
NAMED = 3
"""Ids that an error names before it only counts."""


class FrameStore:
    """Frame features by video id. They stay in the file until they are asked for.

    Attributes:
        path: the file.
        width: D.
        lengths: F by video id.
    """

    def __init__(self, path: Path, width: int | None = None, index: Path | None = None) -> None:
        """Opens a .npz, .safetensors or .h5 file in one of these layouts.

        * One array (F, D) a video id.
        * A table `features` (n, D), whose rows belong to
          - the videos of the CSV file `index`: a header, then lines `id,row`, a video's frames in the order of time;
          - the videos `ids` (n,), strings (in .safetensors a JSON list in the metadata), in the same order;
          - segment `segment` (n,) of video `video` (n,), by the id VIDEO_SEGMENT;
          - the videos `videoN`, by `video_shot_sub_frame` (n, 4), whole numbers whose first column is N. The others
            give the order of time: shot, part of the shot, and frame, which is counted anew in each shot.

        Raises:
            UserError: the file or index is missing or malformed, or the features are not `width` wide.
        """
        self.path = path
        self._file = open_arrays(path)
        self._rows: Mapping[str, NDArray[np.int64]] | None = None
        self.lengths: dict[str, int]
        is_table = index is not None or TABLE in self._file.shapes or self._file.strings("ids") is not None
        self.width = self._table(index) if is_table else self._arrays()
        if width is not None and self.width != width:
            raise UserError(f"{path}: features have {self.width} dimensions; expected {width}")

    def _table(self, index: Path | None) -> int:
        shape = self._file.shapes.get(TABLE, ())
        if len(shape) != 2:
            raise UserError(f"{self.path}: 'features' is {shape or 'missing'}; expected (frames, dimensions)")
        self._file.check_numbers([TABLE])
        if index is None:
            self._rows = _rows_by_id(self._file, shape[0])
        else:
            entries = read_index(index, shape[0], self.path)
            self._rows = _grouped((id for _, id, _ in entries), (row for _, _, row in entries))
        self._read_table = self._file.opened(TABLE)
        self.lengths = {id: len(rows) for id, rows in self._rows.items()}
        return shape[1]

    def _arrays(self) -> int:
        path, shapes = self.path, self._file.shapes
        if not shapes:
            raise UserError(f"{path}: holds no arrays; expected frame features")
        self._file.check_numbers(shapes)
        first, width = "", 0
        for id, shape in shapes.items():
            if len(shape) != 2:
                raise UserError(f"{path}: array {id!r} has shape {shape}; expected (frames, dimensions)")
            first, width = first or id, width or shape[1]
            if shape[1] != width:
                raise UserError(
                    f"{path}: features of {id!r} have {shape[1]} dimensions and those of {first!r} {width}; expected "
                    "one width"
                )
        self.lengths = {id: shape[0] for id, shape in shapes.items()}
        return width

    def __contains__(self, video: str) -> bool:
        return video in self.lengths

    def missing(self, videos: Sequence[str]) -> list[str]:
        """Those without features, in their order."""
        return [video for video in videos if video not in self]

    def read(self, videos: Sequence[str], at_most: int | None = None) -> list[Tensor]:
        """(F, D) of each video, frames in the order of time, in the type they are stored in if it has 16 or 32 bits.

        Of a video with more than `at_most` frames so many are read, evenly spread.

        Raises:
            UserError: a video has no features, no frames, or NaN or infinity among its features.
        """
        if missing := self.missing(videos):
            named = ", ".join(missing[:NAMED])
            raise UserError(f"{self.path}: no features of {len(missing)} of {len(videos)} videos ({named}, ...)")
        return [self.part(video, 0, self.lengths[video], at_most) for video in videos]

    def part(self, video: str, start: int, stop: int, at_most: int | None = None) -> Tensor:
        """As `read`, of the frames from `start` to before `stop` of one video that has features."""
        stop = min(stop, self.lengths[video])
        if start >= stop:
            raise UserError(f"{self.path}: {video!r} has no frames from {start} on; extract its features again")
        chosen = start + spread(stop - start, at_most)
        try:
            features = self._open(video)(chosen)
        except READ_ERRORS as error:
            raise UserError(f"{self.path}: cannot be read any more ({error}); was it replaced meanwhile?") from None
        if not bool(features.isfinite().all()):
            frame = int(chosen[int((~features.isfinite().all(1)).nonzero()[0])])
            raise UserError(
                f"{self.path}: a feature of {video!r} is NaN or infinite (frame {frame}); extract its features again"
            )
        return features

    def _open(self, video: str) -> Callable[[Rows], Tensor]:
        """A function from some of a video's frames to their features."""
        if self._rows is None:
            return self._file.opened(video)
        rows = self._rows[video]
        return lambda chosen: self._read_table(rows[chosen])


def spread(count: int, at_most: int | None) -> NDArray[np.int64]:
    """At most so many of 0 to `count` - 1, ascending and evenly spread, with both ends."""
    if at_most is None or count <= at_most:
        return np.arange(count)
    return torch.linspace(0, count - 1, at_most).round().long().numpy()


def _grouped(ids: Iterable[str], rows: Iterable[int]) -> dict[str, NDArray[np.int64]]:
    """The rows of each id, in the order in which they come."""
    found: dict[str, list[int]] = {}
    for id, row in zip(ids, rows, strict=True):
        found.setdefault(id, []).append(row)
    return {id: np.array(own, np.int64) for id, own in found.items()}


def _rows_by_id(file: ArrayFile, count: int) -> dict[str, NDArray[np.int64]]:
    if PLACES in file.shapes:
        if file.shapes[PLACES] != (count, 4):
            raise UserError(f"{file.path}: '{PLACES}' is {file.shapes[PLACES]}; expected ({count}, 4)")
        file.check_numbers([PLACES])
        places = file.integers(PLACES)
        order = np.lexsort(places.T[::-1])  # by video, then by the other columns
        return _grouped((f"video{number}" for number in places[order, 0].tolist()), order.tolist())
    ids = file.strings("ids")
    if ids is None and "segment" in file.shapes and (videos := file.strings("video")) is not None:
        file.check_numbers(["segment"])
        segments = file.integers("segment").reshape(-1).tolist()
        if len(segments) != len(videos):
            raise UserError(f"{file.path}: {len(videos)} in 'video', {len(segments)} in 'segment'; expected one each")
        ids = [f"{video}_{segment}" for video, segment in zip(videos, segments, strict=True)]
    if ids is None:
        raise UserError(
            f"{file.path}: 'features' comes without ids; expected an index (id,row), or an array 'ids', "
            f"'video' with 'segment', or '{PLACES}'"
        )
    if len(ids) != count:
        raise UserError(f"{file.path}: {len(ids)} ids for {count} rows of 'features'; expected one each")
    return _grouped(ids, range(count))
