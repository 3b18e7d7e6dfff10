"""MSR-VTT's official files, generated and real, and what is said of each mistake in them."""

import json
import os
from pathlib import Path

import pytest

from models.data.msrvtt import MSRVTTDataConfig, load_msrvtt, read_annotations
from models.errors import UserError
from tests.support.small_videos import TESTED, TRAINED, annotations, caption, small_videos, write_frames

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


def test_videos_without_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_videos(tmp_path)
    write_frames(tmp_path / "frames.npz", range(3, TRAINED + TESTED))
    with pytest.raises(UserError, match=r"frames.npz: . of 16 train videos have no features \(video"):
        load_msrvtt(config(tmp_path))
    splits = load_msrvtt(config(tmp_path, allow_missing_videos=True))
    assert sum(len(splits[name]) for name in ("train", "validation")) == TRAINED - 3
    left_out = [split.left_out for split in splits.values() if split.left_out is not None]
    assert {name for short in left_out for name in short.names} == {"video0", "video1", "video2"}
    assert capsys.readouterr().err.splitlines() == [f"{short}; left out" for short in left_out]
    assert splits["test"].left_out is None
    write_frames(tmp_path / "frames.npz", range(100, 110))
    with pytest.raises(UserError, match=r"16 of 16 train videos have no features .*are these features of another data"):
        load_msrvtt(config(tmp_path, allow_missing_videos=True))


def break_list(folder: Path, text: str) -> None:
    (folder / "MSRVTT_train.7k.csv").write_text("video_id\n" + text)


def test_mistakes_in_lists(tmp_path: Path) -> None:
    small_videos(tmp_path)
    for text, message in (
        ("video1\nvideo99\n", r"7k\.csv:3: unknown video 'video99'"),
        ("video1\nvideo1\n", r"7k\.csv:3: 'video1' comes twice"),
        ("video1\nvideo21\n", r"7k\.csv: 'video21' is in train and in test; nothing may be in both"),
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
    break_list(tmp_path, "video1\n")
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("video_id,sentence\nvideo20,\n")
    with pytest.raises(UserError, match=r"test\.csv:2: the sentence of 'video20' is empty; expected a sentence"):
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
    twice = {**good, "videos": good["videos"] * 2}
    refused(json.dumps(twice).encode(), r"videos\[6\] is 'video20', which comes twice; expected each video once")
    odd = {**good, "videos": [{"video_id": "video20", "split": "val"}]}
    refused(json.dumps(odd).encode(), r"videos\[0\]: split 'val' of 'video20'; expected train, validate, test")
    refused(json.dumps({**good, "videos": [7]}).encode(), r"videos\[0\] has no 'video_id' or no 'split'")
    refused(b"[]", "is no JSON object")
    path.unlink()
    with pytest.raises(
        UserError, match=r"no such file, nor test_annotation\.zip or MSRVTT_data\.json; expected MSR-VTT"
    ):
        load_msrvtt(config(tmp_path))
    packed = (tmp_path / "train_val_annotation.zip").read_bytes()
    (tmp_path / "test_annotation.zip").write_bytes(packed)
    with pytest.raises(
        UserError, match=r"test_annotation\.zip: holds no test_videodatainfo\.json; expected the official"
    ):
        load_msrvtt(config(tmp_path))


def test_annotations_in_one_file_as_univl_has_them(tmp_path: Path) -> None:
    small_videos(tmp_path)
    expected = read_annotations(tmp_path)
    parts = [annotations("train_val", range(TRAINED), 3), annotations("test", range(TRAINED, TRAINED + TESTED), 3)]
    for file in [*tmp_path.glob("*.zip"), *tmp_path.glob("*.json")]:
        file.unlink()
    both = {kind: parts[0][kind] + parts[1][kind] for kind in ("videos", "sentences")}
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps(both))
    assert read_annotations(tmp_path) == expected


@pytest.mark.skipif(DATA is None, reason="needs real data: set MELTMATCH_DATA to the folder that holds msrvtt/")
def test_the_real_files() -> None:
    splits = load_msrvtt(MSRVTTDataConfig(allow_missing_videos=True))
    assert sum(len(splits[name]) for name in ("train", "validation")) == 3395
    assert len(splits["test"]) == 476
    assert all(len(texts) == 20 for texts in splits["train"].references())
    assert splits["train"].frames.features.shape[2] == 1280
