"""MSR-VTT's official files, generated and real, and what is said of each mistake in them."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from models.data.frames import FrameStore
from models.data.msrvtt import MSRVTTDataConfig, load_msrvtt
from models.data.videos import padded
from models.errors import UserError
from tests.support.small_videos import TESTED, TRAINED, WIDTH, annotations, caption, small_videos, write_frames

DATA = os.environ.get("MELTMATCH_DATA")


def config(folder: Path, **changes: object) -> MSRVTTDataConfig:
    values = {"root": str(folder), "folder": ".", "features": "frames.npz", "validation": 0.2, **changes}
    return MSRVTTDataConfig.model_validate(values)


def test_the_splits(tmp_path: Path) -> None:
    splits = load_msrvtt(config(small_videos(tmp_path)))
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "validation": 4, "test": TESTED}
    assert not set(splits["train"].videos) & set(splits["validation"].videos)
    for split in splits.values():
        assert [c.video for c in split.captions] == [n for n in range(len(split)) for _ in range(3)]
        for number, video in enumerate(split.videos):
            which = int(video.removeprefix("video"))
            assert split.references()[number] == [caption(which, variant) for variant in range(3)]
            assert split.queries[number] == (number, caption(which, 0))
            assert int(split.frames.counts[number]) == 1 + which % 4
    full = load_msrvtt(config(tmp_path, split="full"))
    assert full["validation"].videos == [f"video{n}" for n in range(16, 20)]


def test_frames_come_in_the_order_of_time(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames.npz", range(TRAINED))
    with np.load(tmp_path / "frames.npz") as file:
        table, places = file["features"], file["video_shot_sub_frame"]
    store = FrameStore(tmp_path / "frames.npz", WIDTH)
    for number in range(TRAINED):
        own = places[:, 0] == number
        expected = table[own][np.argsort(places[own, 3])]
        assert np.array_equal(store.read([f"video{number}"])[0].numpy(), expected)


def test_arrays_by_video(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=np.ones((2, 3), np.float32), second=np.zeros((1, 3), np.float32))
    store = FrameStore(tmp_path / "a.npz")
    assert store.width == 3
    assert store.missing(["second", "third"]) == ["third"]
    assert [len(video) for video in store.read(["second", "first"])] == [1, 2]


def test_many_frames_are_thinned_evenly() -> None:
    frames = padded([torch.arange(9.0)[:, None], torch.arange(2.0)[:, None]], at_most=5)
    assert frames.features[0, :, 0].tolist() == [0, 2, 4, 6, 8]
    assert frames.mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]


def test_videos_without_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_videos(tmp_path)
    write_frames(tmp_path / "frames.npz", range(3, TRAINED + TESTED))
    with pytest.raises(UserError, match=r"frames.npz: . of 16 train videos have no features \(video"):
        load_msrvtt(config(tmp_path))
    splits = load_msrvtt(config(tmp_path, allow_missing_videos=True))
    assert sum(len(splits[name]) for name in ("train", "validation")) == TRAINED - 3
    assert "left out" in capsys.readouterr().err


def break_list(folder: Path, text: str) -> None:
    (folder / "MSRVTT_train.7k.csv").write_text("video_id\n" + text)


def test_mistakes_in_lists(tmp_path: Path) -> None:
    small_videos(tmp_path)
    for text, message in (
        ("video1\nvideo99\n", r"7k\.csv:3: unknown video 'video99'"),
        ("video1\nvideo1\n", r"7k\.csv:3: 'video1' comes twice"),
        ("video1\nvideo21\n", r"'video21' is also in MSRVTT_JSFUSION_test\.csv"),
    ):
        break_list(tmp_path, text)
        with pytest.raises(UserError, match=message):
            load_msrvtt(config(tmp_path))
    (tmp_path / "MSRVTT_train.7k.csv").write_bytes(b"video_id\nvideo\xff\n")
    with pytest.raises(UserError, match=r"7k\.csv:2: .*not UTF-8"):
        load_msrvtt(config(tmp_path))
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video\nvideo1\n")
    with pytest.raises(UserError, match=r"7k\.csv:1: no column 'video_id'"):
        load_msrvtt(config(tmp_path))


def test_mistakes_in_annotations(tmp_path: Path) -> None:
    small_videos(tmp_path)
    path = tmp_path / "test_videodatainfo.json"
    good = annotations("test", range(TRAINED, TRAINED + TESTED), 3)

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_msrvtt(config(tmp_path))

    empty = {**good, "sentences": [{"video_id": "video20", "caption": "  "}]}
    refused(json.dumps(empty).encode(), r"sentences\[0\] of 'video20' is empty")
    unknown = {**good, "sentences": [{"video_id": "video77", "caption": "a"}]}
    refused(json.dumps(unknown).encode(), r"sentences\[0\] is of 'video77'")
    refused(json.dumps({**good, "sentences": []}).encode(), "'video20' has no caption")
    refused(json.dumps({"videos": []}).encode(), "has no list 'sentences'")
    refused(b"[]", "is no JSON object")
    refused(b'{"videos": [', "malformed or cut short")
    refused(b'{"\xff": 1}', "byte 3 is not UTF-8")
    path.unlink()
    with pytest.raises(UserError, match=r"no such file, nor test_annotation\.zip"):
        load_msrvtt(config(tmp_path))
    with zipfile.ZipFile(tmp_path / "test_annotation.zip", "w") as archive:
        archive.writestr("../test_videodatainfo.json", "{}")
    with pytest.raises(UserError, match=r"holds no test_videodatainfo\.json"):
        load_msrvtt(config(tmp_path))
    packed = (tmp_path / "train_val_annotation.zip").read_bytes()
    (tmp_path / "test_annotation.zip").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="malformed or cut short"):
        load_msrvtt(config(tmp_path))


def test_mistakes_in_features(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    cases: list[tuple[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]], str]] = [
        ({"a": np.ones(3, np.float32)}, r"array 'a' has shape \(3,\)"),
        ({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 4), np.float32)}, "features of 'b' have 4 dimensions"),
        ({"features": np.ones((2, 3), np.float32), "video_shot_sub_frame": np.ones((1, 4), np.float32)}, "expected"),
    ]
    for arrays, message in cases:
        np.savez(path, allow_pickle=False, **arrays)
        with pytest.raises(UserError, match=message):
            FrameStore(path)
    np.savez(path, a=np.ones((2, 3), np.float32), b=np.ones((0, 3), np.float32), c=np.full((1, 3), np.nan))
    with pytest.raises(UserError, match="have 3 dimensions; expected 4"):
        FrameStore(path, 4)
    store = FrameStore(path)
    for video, message in (("b", "'b' has no frames"), ("c", "'c' is NaN"), ("d", "no features of 1 of 1 videos")):
        with pytest.raises(UserError, match=message):
            store.read([video])


@pytest.mark.skipif(DATA is None, reason="needs real data: set MELTMATCH_DATA to the folder that holds msrvtt/")
def test_the_real_files() -> None:
    splits = load_msrvtt(MSRVTTDataConfig(allow_missing_videos=True))
    assert sum(len(splits[name]) for name in ("train", "validation")) == 3395
    assert len(splits["test"]) == 476
    assert all(len(texts) == 20 for texts in splits["train"].references())
    assert splits["train"].frames.features.shape[2] == 1280
