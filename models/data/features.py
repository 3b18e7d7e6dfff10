"""Stored features, one vector an id: npz, safetensors and HDF5 files in the layouts listed at `FeatureStore.open`."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.data.files import atomic_path, read_lines
from models.data.stored import READ_ERRORS, open_arrays
from models.errors import UserError

TABLE, IDS = "features", "ids"


def read_index(index: Path, rows: int, features: Path) -> list[tuple[str, str, int]]:
    """A CSV file of two columns under a header, the second a row of the table in `features`: where, id and row.

    Raises UserError naming file and line for anything else and for a row that is not 0 to `rows` - 1.
    """
    entries = []
    lines = read_lines(index)
    for number, line in lines:
        where = f"{index}:{number}"
        cells = next(csv.reader([line]))
        if len(cells) != 2:
            raise UserError(f"{where}: {len(cells)} columns; expected two, an id and its row, under a header")
        if number == lines[0][0]:
            continue
        id, cell = cells[0], cells[1].strip()
        if not (cell.isascii() and cell.isdigit()):
            raise UserError(f"{where}: row {cell!r} of {id!r} is not a number; expected 0 to {rows - 1}")
        if int(cell) >= rows:
            raise UserError(f"{where}: row {cell} of {id!r} is out of range; expected 0 to {rows - 1} of {features}")
        entries.append((where, id, int(cell)))
    return entries


def _one_row_each(entries: Iterable[tuple[str, str, int]]) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for where, id, row in entries:
        if id in row_of:
            raise UserError(f"{where}: duplicate id {id!r}; expected each id once")
        row_of[id] = row
    return row_of


def _unique(path: Path, ids: Iterable[str]) -> None:
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: id {repeated[0]!r} comes more than once ({len(repeated)} ids do); expected each once")


class FeatureStore:
    """Features of fixed width, by id. Files stay on disk as far as possible; only gathered rows become float32.

    Attributes:
        path: the feature file.
        width: the number of dimensions of each feature.
    """

    def __init__(self, path: Path, width: int, row_of: dict[str, int], read: Callable[[list[int]], Tensor]) -> None:
        """Not for direct use: see `open`. `read` maps row numbers to (n, width) floating-point numbers."""
        self.path = path
        self.width = width
        self._row_of = row_of
        self._read = read

    @classmethod
    def open(cls, path: Path, index: Path | None = None, expected_width: int | None = None) -> "FeatureStore":
        """Open a feature file in one of these layouts.

        * `.npz` or `.h5` with `ids` (n,) strings and `features` (n, d);
        * `.safetensors` with `features` (n, d) and metadata `ids`, a JSON list of n strings;
        * any with a table `features` and a CSV file `index`: a header, then lines `id,row of the table`;
        * any with one 1-D array an id.

        Raises UserError for a missing, foreign or truncated file, arrays that only pickle could read, ids that are
        missing, repeated or of another number than rows, ragged widths or one that is not `expected_width`, and index
        rows that are malformed, repeated or out of range (file and line are named).
        """
        file = open_arrays(path)
        table, ids = file.shapes.get(TABLE, ()), file.strings(IDS)
        if len(table) == 2 or index is not None or ids is not None:
            if len(table) != 2:
                raise UserError(
                    f"{path}: holds no 2-D array 'features'; expected one, as there is a list of ids for it"
                )
            file.check_numbers([TABLE])
            rows, width = table
            if index is not None:
                row_of = _one_row_each(read_index(index, rows, path))
            elif ids is not None:
                _unique(path, ids)
                if len(ids) != rows:
                    raise UserError(f"{path}: {len(ids)} ids for {rows} rows of 'features'; expected one each")
                row_of = {id: row for row, id in enumerate(ids)}
            else:
                raise UserError(f"{path}: 'features' comes without 'ids'; expected an index file (id,row) or 'ids'")
            read: Callable[[list[int]], Tensor] = file.opened(TABLE)
        else:
            names = list(file.shapes)
            file.check_numbers(names)
            width = _common_width(path, file.shapes)
            row_of = {name: row for row, name in enumerate(names)}

            def read(numbers: list[int]) -> Tensor:
                return torch.stack([file.opened(names[number])(slice(None)) for number in numbers])

        if expected_width is not None and width != expected_width:
            raise UserError(f"{path}: features have {width} dimensions; expected {expected_width}")
        return cls(path, width, row_of, read)

    def gather(self, ids: Sequence[str], what: str = "clip") -> Tensor:
        """The features of `ids`, in their order: (n, width) float32.

        `what` names the kind of id in errors. Raises UserError for an id without a feature and for NaN or infinity.
        """
        missing = [id for id in ids if id not in self._row_of]
        if missing:
            raise UserError(
                f"{self.path}: no feature for {what} {missing[0]!r} ({len(missing)} of {len(ids)} missing); "
                f"expected a row for every {what}"
            )
        if not ids:
            return torch.zeros(0, self.width)
        try:
            features = self._read([self._row_of[id] for id in ids]).float()
        except READ_ERRORS as error:
            raise UserError(f"{self.path}: cannot be read any more ({error}); was it replaced meanwhile?") from None
        finite = torch.isfinite(features).all(dim=1)
        if not finite.all():
            bad = [ids[i] for i in torch.nonzero(~finite).flatten().tolist()]
            raise UserError(
                f"{self.path}: the feature of {what} {bad[0]!r} holds NaN or infinity ({len(bad)} of {len(ids)} do); "
                "expected finite float32 numbers; extract it again"
            )
        return features


def _common_width(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    if not shapes:
        raise UserError(f"{path}: holds no arrays; expected 'ids' and 'features', or one 1-D array an id")
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if len(shape) != 1:
            raise UserError(f"{path}: array {name!r} has shape {shape}; expected 1-D arrays, or a 2-D 'features'")
        if shape != shapes[first]:
            raise UserError(
                f"{path}: {name!r} has {shape[0]} dimensions and {first!r} has {shapes[first][0]}; expected one width"
            )
    return shapes[first][0]


def write_features(path: Path, ids: Sequence[str], features: Tensor) -> None:
    """Write (n, d) features, in their own floating-point type, with their n ids to .npz or .safetensors, atomically.

    Raises UserError for another suffix, ids that repeat or are not n, and NaN or infinity (the id is named).
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{path}: unknown kind of feature file; expected .npz or .safetensors")
    if features.ndim != 2 or len(ids) != len(features):
        raise UserError(f"{path}: {len(ids)} ids for features of shape {tuple(features.shape)}; expected one id a row")
    _unique(path, ids)
    features = features.detach().cpu().contiguous()
    bad = torch.nonzero(~torch.isfinite(features).all(dim=1)).flatten().tolist()
    if bad:
        raise UserError(f"{path}: the feature of {ids[bad[0]]!r} holds NaN or infinity; expected finite numbers")
    with atomic_path(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as file:
                # Uncompressed, so that a reader can map the table instead of loading it.
                np.savez(file, allow_pickle=False, ids=np.array(ids, dtype=np.str_), features=features.numpy())
        else:
            save_file({TABLE: features}, temporary, metadata={IDS: json.dumps(list(ids))})
