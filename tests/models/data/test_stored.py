"""What is particular about HDF5 files: groups, scattered rows, and the faults they may have."""

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from models.data.stored import open_arrays
from models.errors import UserError

TABLE = np.arange(40, dtype=np.float32).reshape(10, 4)


def rejected(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_arrays(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("rows", [[], [3], [9, 0, 0, 1, 4, 5, 6, 2], slice(2, 5), slice(8, 20), np.array([7, 6])])
def test_rows_in_any_order(tmp_path: Path, rows: slice | list[int]) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["table"] = TABLE
    got = open_arrays(tmp_path / "f.h5").opened("table")(rows)
    assert torch.equal(got, torch.from_numpy(TABLE[rows].copy()).reshape(-1, 4))


def test_groups_and_strings(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["deep/down"] = TABLE
        file["names"] = ["a", "ü"]
        file["bad"] = np.array([b"\xff"], dtype="S1")
        file["kind"] = np.dtype("f4")  # a named type is no array
    arrays = open_arrays(tmp_path / "f.h5")
    assert arrays.shapes == {"bad": (1,), "deep/down": (10, 4), "names": (2,)}
    assert arrays.strings("names") == ["a", "ü"]
    assert arrays.strings("absent") is None
    for name, said in {"deep/down": "is float32 (10, 4); expected a 1-D array", "bad": "a string of 'bad' is"}.items():
        with pytest.raises(UserError) as caught:
            arrays.strings(name)
        assert said in str(caught.value)
    with pytest.raises(UserError, match=r"array 'bad' is of type \|S1; expected numbers"):
        arrays.check_numbers(arrays.shapes)


def test_faulty_files(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    assert "no such file; expected a feature file (.npz, .safetensors or .h5)" in rejected(path)
    with h5py.File(path, "w") as file:
        file["table"] = TABLE
    whole = path.read_bytes()
    for part in (b"", b"garbage" * 20, whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(part)
        assert "is no HDF5 file or is cut short (" in rejected(path)


def test_nothing_leads_out_of_a_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = TABLE
    (tmp_path / "raw").write_bytes(TABLE.tobytes())
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        file["own"] = TABLE
    assert list(open_arrays(tmp_path / "f.h5").shapes) == ["own"]
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((10, 4), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (10, 4))
        file.create_virtual_dataset("away", layout)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("away", (10, 4), "f4", external=[(str(tmp_path / "raw"), 0, TABLE.nbytes)])
    for name in ("virtual.h5", "raw.h5"):
        assert "data set 'away' lies in other files; expected all of it in this one" in rejected(tmp_path / name)


def test_long_runs_are_read_as_such(tmp_path: Path) -> None:
    """Every choice of three rows of five, with repeats, against plain indexing."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["table"] = TABLE[:5]
    read = open_arrays(tmp_path / "f.h5").opened("table")
    for rows in itertools.product(range(5), repeat=3):
        assert torch.equal(read(rows), torch.from_numpy(TABLE[list(rows)]))
