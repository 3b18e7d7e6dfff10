"""Feature files: every layout gives the same numbers, and every fault is one clear error."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from models.data.features import FeatureStore, write_features
from models.data.npz import NpzFile
from models.errors import UserError

IDS = ["0_a", "0_b", "0_ü"]
FEATURES = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8


def rows_csv(folder: Path, *lines: str) -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join(["clip,row", *lines]) + "\n", encoding="utf-8")
    return path


def numpy_table(folder: Path) -> FeatureStore:
    np.savez(folder / "f.npz", ids=np.array(IDS), features=FEATURES.numpy())
    return FeatureStore.open(folder / "f.npz")


def compressed_table(folder: Path) -> FeatureStore:
    np.savez_compressed(folder / "f.npz", ids=np.array(IDS), features=FEATURES.numpy())
    return FeatureStore.open(folder / "f.npz")


def fortran_double_table(folder: Path) -> FeatureStore:
    np.savez(folder / "f.npz", ids=np.array(IDS), features=np.asfortranarray(FEATURES.double().numpy()))
    return FeatureStore.open(folder / "f.npz")


def numpy_vectors(folder: Path) -> FeatureStore:
    np.savez(folder / "f.npz", allow_pickle=False, **{id: row.numpy() for id, row in zip(IDS, FEATURES, strict=True)})
    return FeatureStore.open(folder / "f.npz")


def numpy_index(folder: Path) -> FeatureStore:
    table = np.concatenate([np.full((2, 4), 9.0), FEATURES.numpy()]).astype(np.float16)
    np.savez(folder / "f.npz", features=table, other=np.zeros((5, 2), dtype=np.int32))
    return FeatureStore.open(folder / "f.npz", rows_csv(folder, "0_a,2", "0_b,3", "0_ü,4"))


def safetensors_table(folder: Path) -> FeatureStore:
    save_file({"features": FEATURES.bfloat16()}, folder / "f.safetensors", metadata={"ids": json.dumps(IDS)})
    return FeatureStore.open(folder / "f.safetensors")


def safetensors_vectors(folder: Path) -> FeatureStore:
    save_file(dict(zip(IDS, FEATURES.half().unbind(), strict=True)), folder / "f.safetensors")
    return FeatureStore.open(folder / "f.safetensors")


def safetensors_index(folder: Path) -> FeatureStore:
    save_file({"features": FEATURES.flip(0).contiguous()}, folder / "f.safetensors")
    return FeatureStore.open(folder / "f.safetensors", rows_csv(folder, "0_b,1", "0_ü,0", "0_a,2"))


def hdf5_table(folder: Path) -> FeatureStore:
    with h5py.File(folder / "f.h5", "w") as file:
        file["features"] = FEATURES.numpy()
        file["ids"] = IDS
    return FeatureStore.open(folder / "f.h5")


def hdf5_vectors(folder: Path) -> FeatureStore:
    with h5py.File(folder / "f.hdf5", "w") as file:
        for id, row in zip(IDS, FEATURES.half(), strict=True):
            file.create_dataset(id, data=row.numpy(), compression="gzip")
    return FeatureStore.open(folder / "f.hdf5")


def hdf5_index(folder: Path) -> FeatureStore:
    with h5py.File(folder / "f.h5", "w") as file:
        file["features"] = FEATURES.numpy()[[0, 0, 2, 0, 1]]
    return FeatureStore.open(folder / "f.h5", rows_csv(folder, "0_b,4", "0_ü,2", "0_a,1"))


def our_npz(folder: Path) -> FeatureStore:
    write_features(folder / "new" / "f.npz", IDS, FEATURES)
    return FeatureStore.open(folder / "new" / "f.npz")


def our_safetensors(folder: Path) -> FeatureStore:
    write_features(folder / "new" / "f.safetensors", IDS, FEATURES)
    return FeatureStore.open(folder / "new" / "f.safetensors")


LAYOUTS = [
    numpy_table,
    compressed_table,
    fortran_double_table,
    numpy_vectors,
    numpy_index,
    safetensors_table,
    safetensors_vectors,
    safetensors_index,
    hdf5_table,
    hdf5_vectors,
    hdf5_index,
    our_npz,
    our_safetensors,
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path: Path, layout: Callable[[Path], FeatureStore]) -> None:
    store = layout(tmp_path)
    assert store.width == 4
    got = store.gather(["0_ü", "0_a", "0_ü"])
    assert got.dtype == torch.float32
    assert torch.equal(got, FEATURES[[2, 0, 2]])
    got.zero_()  # nor is it a view of what is stored
    assert torch.equal(store.gather(["0_a", "0_b"]), FEATURES[:2])
    assert store.gather([]).shape == (0, 4)
    with pytest.raises(UserError) as caught:
        store.gather(["0_a", "0_x", "0_y"], what="text")
    assert (
        str(caught.value) == f"{store.path}: no feature for text '0_x' (2 of 3 missing); expected a row for every text"
    )


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True), st.data())
def test_what_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], data: st.DataObject
) -> None:
    # numpy's unicode arrays drop trailing NULs, which no id has.
    ids = [id + "." for id in ids]
    suffix = data.draw(st.sampled_from([".npz", ".safetensors"]))
    path = tmp_path_factory.mktemp("f") / f"f{suffix}"
    features = torch.randn(len(ids), 3).half()
    write_features(path, ids, features)
    order = data.draw(st.permutations(range(len(ids))))
    assert torch.equal(FeatureStore.open(path).gather([ids[i] for i in order]), features[order].float())


def test_stored_tables_stay_on_disk(tmp_path: Path) -> None:
    numpy_table(tmp_path)
    assert isinstance(NpzFile(tmp_path / "f.npz").array("features"), np.memmap)


def fails(path: Path, message: str, index: Path | None = None, expected_width: int | None = None) -> None:
    with pytest.raises(UserError) as caught:
        FeatureStore.open(path, index, expected_width)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path if index is None else path.parent))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_that_are_not_what_they_should_be(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    fails(path, "no such file; expected a feature file (.npz, .safetensors or .h5)")
    write_features(path, IDS, FEATURES)
    whole = path.read_bytes()
    for part in (b"", b"garbage" * 20, whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(part)
        fails(path, "or is cut short")
    path.unlink()
    path.mkdir()
    fails(path, "or is cut short")


def test_other_suffixes(tmp_path: Path) -> None:
    fails(tmp_path / "f.npy", "unknown kind of feature file; expected .npz, .safetensors, .h5 or .hdf5")


def test_corrupt_compressed_data(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez_compressed(path, ids=np.array(IDS), features=np.random.default_rng(0).standard_normal((3, 4)))
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("features.npy").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 150 : offset + 170] = b"\xff" * 20
    path.write_bytes(data)
    fails(path, "write")


def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    write_features(path, IDS, FEATURES)
    data = path.read_bytes().replace(b"(3, 4)", b"(9, 4)")
    path.write_bytes(data)
    fails(path, "or is cut short")


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, ids=np.array(IDS, dtype=object), features=FEATURES.numpy())
    fails(path, "array 'ids' holds Python objects, which are never unpickled; expected numbers or unicode strings")


ARRAYS: dict[str, tuple[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], str]] = {
    "no ids": ({"features": np.zeros((2, 3))}, "'features' comes without 'ids'; expected an index file (id,row)"),
    "bytes": ({"features": np.zeros((1, 3)), "ids": np.array([b"a"])}, "expected a 1-D array of unicode strings"),
    "2-D ids": ({"features": np.zeros((1, 3)), "ids": np.array([["a"]])}, "expected a 1-D array of unicode strings"),
    "count": (
        {"features": np.zeros((2, 3)), "ids": np.array(["a"])},
        "1 ids for 2 rows of 'features'; expected one each",
    ),
    "repeated": ({"features": np.zeros((2, 3)), "ids": np.array(["a", "a"])}, "id 'a' comes more than once"),
    "text": (
        {"features": np.array([["x"]]), "ids": np.array(["a"])},
        "array 'features' is of type <U1; expected numbers",
    ),
    "ragged": ({"a": np.zeros(3), "b": np.zeros(4)}, "'b' has 4 dimensions and 'a' has 3; expected one width"),
    "2-D": ({"a": np.zeros((2, 3))}, "array 'a' has shape (2, 3); expected 1-D arrays, or a 2-D 'features'"),
    "empty": ({}, "holds no arrays; expected 'ids' and 'features'"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit(tmp_path: Path, name: str) -> None:
    arrays, message = ARRAYS[name]
    np.savez(tmp_path / "f.npz", allow_pickle=False, **arrays)
    fails(tmp_path / "f.npz", message)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"ids": "[1, 2, 3]"}, "metadata 'ids' is malformed; expected a JSON list of strings"),
        ({"ids": "not json"}, "metadata 'ids' is malformed; expected a JSON list of strings"),
        ({"ids": '["a", "b"]'}, "2 ids for 3 rows of 'features'"),
        ({"ids": '["a", "b", "a"]'}, "id 'a' comes more than once"),
        (None, "'features' comes without 'ids'"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, metadata: dict[str, str] | None, message: str) -> None:
    save_file({"features": FEATURES}, tmp_path / "f.safetensors", metadata=metadata)
    fails(tmp_path / "f.safetensors", message)


def test_repeated_names_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, a=np.zeros(2))
    with zipfile.ZipFile(path) as archive:
        data = archive.read("a.npy")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", data)
    fails(path, "array 'a' comes more than once")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0_b,3", "rows.csv:3: row 3 of '0_b' is out of range; expected 0 to 2 of "),
        ("0_b,-1", "rows.csv:3: row '-1' of '0_b' is not a number; expected 0 to 2"),
        ("0_b,x", "rows.csv:3: row 'x' of '0_b' is not a number; expected 0 to 2"),
        ("0_b", "rows.csv:3: 1 columns; expected two, an id and its row, under a header"),
        ("0_a,1", "rows.csv:3: duplicate id '0_a'; expected each id once"),
    ],
)
def test_index_errors_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    np.savez(tmp_path / "f.npz", features=FEATURES.numpy())
    fails(tmp_path / "f.npz", message, index=rows_csv(tmp_path, "0_a,0", line))


def test_an_index_needs_a_table_and_must_exist(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=np.zeros(2))
    fails(tmp_path / "f.npz", "holds no 2-D array 'features'", index=rows_csv(tmp_path, "a,0"))
    np.savez(tmp_path / "f.npz", features=FEATURES.numpy())
    fails(tmp_path / "f.npz", "none.csv: no such file", index=tmp_path / "none.csv")


def test_width(tmp_path: Path) -> None:
    write_features(tmp_path / "f.npz", IDS, FEATURES)
    assert FeatureStore.open(tmp_path / "f.npz", expected_width=4).width == 4
    fails(tmp_path / "f.npz", "features have 4 dimensions; expected 5", expected_width=5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("compressed", [True, False])
def test_numbers_that_are_not_finite_name_the_id(tmp_path: Path, bad: float, compressed: bool) -> None:
    features = FEATURES.double().numpy().copy()
    features[1, 2] = bad
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "f.npz", ids=np.array(IDS), features=features)
    store = FeatureStore.open(tmp_path / "f.npz")
    assert torch.isfinite(store.gather(["0_a", "0_ü"])).all()
    with pytest.raises(
        UserError, match=r"the feature of clip '0_b' holds NaN or infinity \(1 of 3 do\); expected finite"
    ):
        store.gather(IDS)


@pytest.mark.parametrize(
    ("name", "ids", "features", "message"),
    [
        ("f.bin", IDS, FEATURES, "unknown kind of feature file"),
        ("f.npz", IDS[:2], FEATURES, r"2 ids for features of shape \(3, 4\)"),
        ("f.npz", ["a", "b", "a"], FEATURES, "id 'a' comes more than once"),
        ("f.npz", IDS, FEATURES / 0, "the feature of '0_a' holds NaN or infinity"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, ids: list[str], features: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_features(tmp_path / name, ids, features)
    assert not list(tmp_path.iterdir())


def test_real_frames_through_the_index(data_root: Path) -> None:
    store = FeatureStore.open(data_root / "msrvtt/frame_features.npz", data_root / "yms_msrvtt/clip_frames.csv", 1280)
    got = store.gather(["0000_00.00.00.000-00.00.07.632", "0000_00.00.07.632-00.00.09.050"])
    with np.load(data_root / "msrvtt/frame_features.npz", allow_pickle=False) as file:
        assert torch.equal(got, torch.from_numpy(file["features"][[8154, 6006]].astype(np.float32)))
