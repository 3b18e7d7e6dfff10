"""Frame features: every layout gives the same frames in the order of time, and every fault is one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.data.frames import FrameStore, spread
from models.data.npz import NpzFile
from models.data.videos import padded
from models.errors import UserError

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]
VIDEOS: dict[str, Array] = {
    "video7": np.arange(12, dtype=np.float16).reshape(4, 3),
    "video12": -np.arange(3, dtype=np.float16).reshape(1, 3),
    "video3": np.arange(6, dtype=np.float16).reshape(2, 3) / 4,
}
# Rows of one video lie apart, in the order of time.
ORDER = [("video7", 0), ("video3", 0), ("video7", 1), ("video12", 0), ("video7", 2), ("video7", 3), ("video3", 1)]
IDS = [video for video, _ in ORDER]
TABLE = np.stack([VIDEOS[video][frame] for video, frame in ORDER])


def arrays(folder: Path, save: Callable[..., None]) -> Path:
    save(folder / "f.npz", allow_pickle=False, **VIDEOS)
    return folder / "f.npz"


def tensors(folder: Path) -> Path:
    save_file({video: torch.from_numpy(array) for video, array in VIDEOS.items()}, folder / "f.safetensors")
    return folder / "f.safetensors"


def data_sets(folder: Path) -> Path:
    with h5py.File(folder / "f.h5", "w") as file:
        for video, array in VIDEOS.items():
            file.create_dataset(video, data=array, compression="gzip")
    return folder / "f.h5"


def table(folder: Path, **others: Any) -> Path:
    np.savez(folder / "f.npz", allow_pickle=False, features=TABLE, **others)
    return folder / "f.npz"


def tensor_with_ids(folder: Path) -> Path:
    save_file({"features": torch.from_numpy(TABLE)}, folder / "f.safetensors", metadata={"ids": json.dumps(IDS)})
    return folder / "f.safetensors"


def data_set_with_ids(folder: Path) -> Path:
    with h5py.File(folder / "f.h5", "w") as file:
        file["features"], file["ids"] = TABLE, IDS
    return folder / "f.h5"


def places(folder: Path) -> Path:
    # Frames are counted anew in each shot, and rows may come in any order.
    in_time = {
        "video7": [(0, 0, 9), (1, 0, 0), (1, 2, 4), (3, 0, 1)],
        "video12": [(5, 5, 5)],
        "video3": [(2, 0, 8), (2, 1, 3)],
    }
    rows = [(int(video.removeprefix("video")), *in_time[video][frame]) for video, frame in ORDER]
    shuffled = np.random.default_rng(0).permutation(len(rows))
    np.savez(folder / "f.npz", features=TABLE[shuffled], video_shot_sub_frame=np.array(rows, np.int32)[shuffled])
    return folder / "f.npz"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "arrays": lambda folder: arrays(folder, np.savez),
    "compressed arrays": lambda folder: arrays(folder, np.savez_compressed),
    "tensors": tensors,
    "data sets": data_sets,
    "table with ids": lambda folder: table(folder, ids=np.array(IDS)),
    "tensor with ids": tensor_with_ids,
    "data set with ids": data_set_with_ids,
    "places": places,
}


def same(store: FrameStore) -> None:
    assert store.width == 3
    assert store.lengths == {video: len(array) for video, array in VIDEOS.items()}
    for video, array in VIDEOS.items():
        (frames,) = store.read([video])
        assert frames.dtype == torch.float16
        assert np.array_equal(frames.numpy(), array)
        for start in range(len(array)):
            for stop in (start + 1, 9):
                assert np.array_equal(store.part(video, start, stop).numpy(), array[start:stop])
    assert [len(frames) for frames in store.read(["video3", "video7", "video3"], at_most=2)] == [2, 2, 2]
    assert store.missing(["video1", "video3", "video2"]) == ["video1", "video2"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path: Path, layout: str) -> None:
    same(FrameStore(LAYOUTS[layout](tmp_path), width=3))


def test_an_index(tmp_path: Path) -> None:
    rows = [f"{video},{row + 2}" for row, video in enumerate(IDS)]
    index = tmp_path / "rows.csv"
    index.write_text("\n".join(["video,row", *rows]) + "\n")
    np.savez(tmp_path / "f.npz", features=np.concatenate([np.zeros((2, 3), np.float16), TABLE]))
    same(FrameStore(tmp_path / "f.npz", index=index))
    index.write_text("video,row\nvideo7,9\n")
    with pytest.raises(UserError, match=r"rows\.csv:2: row 9 of 'video7' is out of range; expected 0 to 8 of "):
        FrameStore(tmp_path / "f.npz", index=index)
    index.write_text("video,row\n")
    assert FrameStore(tmp_path / "f.npz", index=index).lengths == {}


def test_segments(tmp_path: Path) -> None:
    videos, segments = ["a", "a", "b"], np.array([0, 2, 0])
    np.savez(tmp_path / "f.npz", features=TABLE[:3], video=np.array(videos), segment=segments, text=np.array(["x"] * 3))
    store = FrameStore(tmp_path / "f.npz")
    assert store.lengths == {"a_0": 1, "a_2": 1, "b_0": 1}
    assert np.array_equal(store.read(["a_2"])[0].numpy(), TABLE[1:2])


def test_tables_stay_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of arrays by video only those asked for are opened, and none of them before."""
    opened: list[str] = []
    plain = NpzFile.array

    def watched(file: NpzFile, name: str) -> Array:
        opened.append(name)
        return plain(file, name)

    monkeypatch.setattr(NpzFile, "array", watched)
    store = FrameStore(arrays(tmp_path, np.savez))
    assert opened == []
    store.read(["video12"])
    assert opened == ["video12"]
    store = FrameStore(table(tmp_path, ids=np.array(IDS)))
    assert isinstance(plain(NpzFile(tmp_path / "f.npz"), "features"), np.memmap)


def test_other_types_become_float32(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=np.array([[1, 2]], np.int64), b=np.array([[0.1, 3]], ">f8"))
    for frames in FrameStore(tmp_path / "f.npz").read(["a", "b"]):
        assert frames.dtype == torch.float32
    short = torch.ones(1, 2, dtype=torch.bfloat16)
    save_file({"a": short}, tmp_path / "f.safetensors")
    assert torch.equal(FrameStore(tmp_path / "f.safetensors").read(["a"])[0], short)


@pytest.mark.parametrize(("count", "at_most"), [(1, 1), (5, 1), (9, 5), (10, 3), (100, 48), (7, 7), (7, 9)])
def test_spread(count: int, at_most: int) -> None:
    chosen = spread(count, at_most).tolist()
    assert len(chosen) == min(count, at_most)
    assert chosen == sorted(set(chosen))
    gaps = np.diff(chosen)
    assert chosen[0] == 0
    if len(chosen) > 1:
        assert chosen[-1] == count - 1
        assert gaps.max() - gaps.min() <= 1
    assert spread(count, None).tolist() == list(range(count))


def test_many_frames_are_thinned_evenly() -> None:
    frames = padded([torch.arange(9.0)[:, None], torch.arange(2.0)[:, None]], at_most=5)
    assert frames.features[0, :, 0].tolist() == [0, 2, 4, 6, 8]
    assert frames.mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    mixed = padded([torch.ones(1, 2).half(), torch.full((1, 2), 0.1)], at_most=5)
    assert mixed.features[1].tolist() == torch.full((1, 2), 0.1).tolist()


ONE = np.ones((1, 3), np.float32)
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "one axis": ({"a": np.ones(3)}, "array 'a' has shape (3,); expected (frames, dimensions)"),
    "ragged": ({"a": ONE, "b": np.ones((1, 4))}, "features of 'b' have 4 dimensions and those of 'a' 3; expected one"),
    "text": ({"a": np.array([["x"]])}, "array 'a' is of type <U1; expected numbers"),
    "nothing": ({}, "holds no arrays; expected frame features"),
    "no ids": ({"features": TABLE}, "'features' comes without ids; expected an index (id,row), or an array 'ids', "),
    "too few ids": ({"features": TABLE, "ids": np.array(["a"])}, "1 ids for 7 rows of 'features'; expected one each"),
    "too few segments": (
        {"features": TABLE, "video": np.array(["a"] * 7), "segment": np.zeros(2)},
        "7 in 'video', 2 in 'segment'; expected one each",
    ),
    "too few places": (
        {"features": TABLE, "video_shot_sub_frame": np.ones((1, 4))},
        "'video_shot_sub_frame' is (1, 4); expected (7, 4)",
    ),
    "no table": ({"features": np.ones(3), "ids": np.array(IDS)}, "'features' is (3,); expected (frames, dimensions)"),
    "objects": ({"a": np.array([[None]])}, "array 'a' holds Python objects, which are never unpickled"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_file(tmp_path: Path, fault: str) -> None:
    stored, said = FAULTS[fault]
    np.savez(tmp_path / "f.npz", **stored)
    with pytest.raises(UserError) as caught:
        FrameStore(tmp_path / "f.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'f.npz'}: {said}")
    assert "\n" not in str(caught.value)


def test_faults_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    holed = np.ones((5, 3))
    holed[3, 1] = np.nan
    np.savez(path, a=np.ones((2, 3)), b=np.ones((0, 3)), c=holed, d=np.full((1, 3), 1e300))
    with pytest.raises(UserError, match="have 3 dimensions; expected 4"):
        FrameStore(path, 4)
    store = FrameStore(path)
    for video, message in (
        ("b", "'b' has no frames from 0 on; extract its features again"),
        ("c", r"'c' is NaN or infinite \(frame 3\)"),
        ("d", r"'d' is NaN or infinite \(frame 0\)"),
        ("e", r"no features of 1 of 1 videos \(e, ...\)"),
    ):
        with pytest.raises(UserError, match=message):
            store.read([video])
    assert len(store.part("c", 0, 3)) == 3
    with pytest.raises(UserError, match=r"'c' is NaN or infinite \(frame 3\)"):
        store.part("c", 2, 9)
    with pytest.raises(UserError, match="'a' has no frames from 2 on"):
        store.part("a", 2, 9)


def test_real_frames_are_in_the_order_of_shots(data_root: Path) -> None:
    store = FrameStore(data_root / "msrvtt/frame_features.npz", 1280)
    with np.load(data_root / "msrvtt/frame_features.npz", allow_pickle=False) as file:
        features, rows = file["features"], file["video_shot_sub_frame"]
    assert sum(store.lengths.values()) == len(features)
    for video in (1, 37, 63, 9996):  # two of them with frames of several shots that share a number
        own = sorted((tuple(row), number) for number, row in enumerate(rows.tolist()) if row[0] == video)
        (frames,) = store.read([f"video{video}"])
        assert np.array_equal(frames.numpy(), features[[number for _, number in own]])
