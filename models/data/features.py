"""Stored features by id: npz and safetensors files, read in the layouts listed at `FeatureStore.open`."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.data.files import atomic_path, read_lines
from models.data.npz import NpzFile
from models.errors import UserError

TABLE, IDS = "features", "ids"


class _Source(NamedTuple):
    """What one file holds. `shapes` are of the arrays by name; `ids` is the list that goes with a table, if any."""

    shapes: dict[str, tuple[int, ...]]
    ids: list[str] | None
    table_rows: Callable[[list[int]], Tensor]
    vector: Callable[[str], Tensor]


def _npz_source(path: Path) -> _Source:
    file = NpzFile(path)
    has_table = TABLE in file.headers and len(file.headers[TABLE].shape) == 2
    ids = None
    if has_table and IDS in file.headers:
        header = file.headers[IDS]
        if header.dtype.kind != "U" or len(header.shape) != 1:
            raise UserError(f"{path}: 'ids' is {header.dtype} {header.shape}; expected a 1-D array of unicode strings")
        ids = [str(id) for id in file.array(IDS)]
    for name in [TABLE] if has_table else file.headers:
        if file.headers[name].dtype.kind not in "fiu":
            raise UserError(f"{path}: array {name!r} is of type {file.headers[name].dtype}; expected numbers")
    table = file.array(TABLE) if has_table else np.empty((0, 0))

    def rows(numbers: list[int]) -> Tensor:
        return _float32(table[numbers])

    def vector(name: str) -> Tensor:
        return _float32(file.array(name))

    return _Source({name: header.shape for name, header in file.headers.items()}, ids, rows, vector)


def _float32(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
    # A float64 too large for float32 becomes infinity, which `gather` reports with its id.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float32))


def _safetensors_source(path: Path) -> _Source:
    try:
        file: Any = safe_open(path, framework="pt")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a feature file (.npz or .safetensors)") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is no safetensors file or is cut short ({error}); write it again") from None
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    ids = None
    listed = (file.metadata() or {}).get(IDS)
    if listed is not None:
        try:
            ids = json.loads(listed)
        except json.JSONDecodeError:
            ids = None
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise UserError(f"{path}: metadata 'ids' is malformed; expected a JSON list of strings")
    # The file is mapped, so a table takes memory only for the pages that are read.
    table: Tensor = file.get_tensor(TABLE) if len(shapes.get(TABLE, ())) == 2 else torch.empty(0, 0)

    def rows(numbers: list[int]) -> Tensor:
        return table[torch.tensor(numbers, dtype=torch.long)].float()

    def vector(name: str) -> Tensor:
        stored: Tensor = file.get_tensor(name)
        return stored.float()

    return _Source(shapes, ids, rows, vector)


def _read_index(index: Path, rows: int, features: Path) -> dict[str, int]:
    """Rows by id of a CSV file of two columns under a header."""
    row_of: dict[str, int] = {}
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
        if id in row_of:
            raise UserError(f"{where}: duplicate id {id!r}; expected each id once")
        row_of[id] = int(cell)
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
        """Not for direct use: see `open`. `read` maps row numbers to (n, width) float32."""
        self.path = path
        self.width = width
        self._row_of = row_of
        self._read = read

    @classmethod
    def open(cls, path: Path, index: Path | None = None, expected_width: int | None = None) -> "FeatureStore":
        """Open a feature file in one of these layouts.

        * `.npz` with `ids` (n,) unicode and `features` (n, d);
        * `.safetensors` with `features` (n, d) and metadata `ids`, a JSON list of n strings;
        * either with a table `features` and a CSV file `index`: a header, then lines `id,row of the table`;
        * either with one 1-D array an id.

        Raises UserError for a missing, foreign or truncated file, arrays that only pickle could read, ids that are
        missing, repeated or of another number than rows, ragged widths or one that is not `expected_width`, and index
        rows that are malformed, repeated or out of range (file and line are named).
        """
        if path.suffix not in (".npz", ".safetensors"):
            raise UserError(f"{path}: unknown kind of feature file; expected .npz or .safetensors")
        source = _npz_source(path) if path.suffix == ".npz" else _safetensors_source(path)
        table = source.shapes.get(TABLE, ())
        if len(table) == 2 or index is not None or source.ids is not None:
            if len(table) != 2:
                raise UserError(
                    f"{path}: holds no 2-D array 'features'; expected one, as there is a list of ids for it"
                )
            rows, width = table
            if index is not None:
                row_of = _read_index(index, rows, path)
            elif source.ids is not None:
                _unique(path, source.ids)
                if len(source.ids) != rows:
                    raise UserError(f"{path}: {len(source.ids)} ids for {rows} rows of 'features'; expected one each")
                row_of = {id: row for row, id in enumerate(source.ids)}
            else:
                raise UserError(f"{path}: 'features' comes without 'ids'; expected an index file (id,row) or 'ids'")
            read = source.table_rows
        else:
            names = list(source.shapes)
            width = _common_width(path, source.shapes)
            row_of = {name: row for row, name in enumerate(names)}

            def read(numbers: list[int]) -> Tensor:
                return torch.stack([source.vector(names[number]) for number in numbers])

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
            features = self._read([self._row_of[id] for id in ids])
        except (SafetensorError, OSError) as error:
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
