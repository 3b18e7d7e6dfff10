"""YouCook2's annotations, official and UniVL's, by segment and by whole video, and what is said of each mistake."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distributed.tasks import load_task
from models.backbones.univl.beam_search import beam_search
from models.data.videos import Caption
from models.data.youcook2 import YouCook2DataConfig, load_youcook2, read_youcook2
from models.errors import UserError
from models.tasks.video_text import VideoTextTask
from tests.support.small_videos import video_recipe

VIDEOS = {"GLd3aX16zBg": "training", "xHr8X2Wpmno": "validation", "a_b-c": "training", "last": "training"}
TIMES: list[tuple[float, float]] = [(1, 3), (3, 4.5), (20, 21)]
SECONDS = 22


def official() -> dict[str, Any]:
    def segments(video: str) -> list[dict[str, Any]]:
        # Numbers of segments need not be places in the list.
        return [
            {"id": 2 * n, "segment": list(times), "sentence": f"step {n} of {video}"} for n, times in enumerate(TIMES)
        ]

    return {"database": {v: {"subset": s, "annotations": segments(v), "duration": 22} for v, s in VIDEOS.items()}}


def converted() -> dict[str, Any]:
    return {
        video: {
            "start": [start for start, _ in TIMES],
            "end": [end for _, end in TIMES],
            "text": [f"step {n} of {video}" for n in range(3)],
            "transcript": ["none", "well then", ""],
        }
        for video in VIDEOS
    }


def features(folder: Path, names: dict[str, str] | None = None) -> None:
    """A frame a second of each whole video; a frame's feature is its video's place and its second."""
    names = names or {}
    arrays = {
        names.get(video, video): np.stack([np.full(SECONDS, place), np.arange(SECONDS)], 1).astype(np.float16)
        for place, video in enumerate(VIDEOS)
    }
    np.savez(folder / "f.npz", allow_pickle=False, **arrays)


def config(folder: Path, content: object, **changes: object) -> YouCook2DataConfig:
    (folder / "a.json").write_text(json.dumps(content))
    values = {"root": str(folder), "annotations": "a.json", "features": "f.npz", "validation": 0.4, "max_frames": 3}
    return YouCook2DataConfig.model_validate({**values, **changes})


def test_segments_of_whole_videos(tmp_path: Path) -> None:
    features(tmp_path)
    splits = load_youcook2(config(tmp_path, official()))
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 3, "test": 3}
    films = {name: {video.rpartition("_")[0] for video in split.videos} for name, split in splits.items()}
    assert films["test"] == {"xHr8X2Wpmno"}
    assert not films["train"] & films["validation"]
    for split in splits.values():
        for number, video in enumerate(split.videos):
            film, _, segment = video.rpartition("_")
            assert split.captions[number] == Caption(number, f"step {int(segment) // 2} of {film}")
            frames = split.frames.features[number, : int(split.frames.counts[number])]
            assert frames[:, 0].tolist() == [list(VIDEOS).index(film)] * len(frames)
            # Both ends count, and of four seconds the middle one of three is the third.
            assert frames[:, 1].tolist() == {"0": [1, 2, 3], "2": [3, 4], "4": [20, 21]}[segment]
        assert split.queries == split.captions
        assert split.transcripts is None
        assert split.left_out is None


def test_a_recipe_of_it(tmp_path: Path) -> None:
    features(tmp_path)
    data = config(tmp_path, official()).model_dump()
    task = load_task(video_recipe(tmp_path, tmp_path / "runs", {"data": data, "model.video_dim": 2}))
    assert len(task) == 6
    batch = task.batch([5, 0], torch.device("cpu"), draw=3)
    assert batch.video.shape == (2, 3, 2)
    assert batch.video_mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_captioning_from_what_is_said(tmp_path: Path) -> None:
    features(tmp_path)
    (tmp_path / "train.csv").write_text("video_id\nlast\na_b-c\n")
    (tmp_path / "val.csv").write_text("video_id\nxHr8X2Wpmno\n")
    data = config(tmp_path, converted(), train_list="train.csv", test_list="val.csv", validation=0.0).model_dump()
    changes = {"task": "captioning", "data": data, "model.video_dim": 2, "inputs.transcripts": True}
    task = load_task(video_recipe(tmp_path, tmp_path / "runs", changes))
    assert isinstance(task, VideoTextTask)
    batch = task.batch([1, 2], torch.device("cpu"), draw=3)  # the second says nothing
    lengths = batch.mask.sum(1).tolist()
    said = [task.tokenizer.text(row[1:length]) for row, length in zip(batch.ids.tolist(), lengths, strict=True)]
    assert said == ["well then", ""]
    captions = [task.tokenizer.text(row[1:]) for row in batch.caption_ids.tolist()]
    assert captions == ["step 1 of last", "step 2 of last"]
    assert batch.memory_ids is None  # the decoder sees what the encoders read
    torch.manual_seed(0)
    network = task.network().eval()
    with torch.no_grad():
        for parameter in network.parameters():  # so large that what is read shows in what is said
            parameter.add_(0.5 * torch.randn_like(parameter))
    found = task.score_sums(network, "test", 0, 1)
    silent = {name: replace(split, transcripts=[""] * len(split)) for name, split in task.splits.items()}
    without = VideoTextTask("captioning", task.model, task.inputs, task.search, silent)
    assert not torch.equal(without.score_sums(network, "test", 0, 1), found)
    # Without padding, and with the frames where they were, the decoder sees the same.
    split, at = task.splits["test"], torch.tensor([1])
    with torch.no_grad():
        video, video_mask = task._encoded(network, split, at, torch.device("cpu"))
        ids = torch.tensor([[task.tokenizer.cls, *task.tokenizer.table(["well then"], 12).ids[0, 1:3], 102]])
        seen, mask = network.memory(ids, torch.ones_like(ids), video, video_mask, task.inputs.max_words)
    hypotheses = beam_search(network, seen, mask, task.tokenizer.cls, task.tokenizer.sep, task.search)
    expected = torch.tensor(hypotheses[0][0].ids, dtype=torch.float64)
    assert torch.equal(found[1, : len(expected)], expected)


def test_another_rate(tmp_path: Path) -> None:
    features(tmp_path)
    splits = load_youcook2(config(tmp_path, official(), frames_per_second=0.5, validation=0.0))
    assert len(splits["validation"]) == 0
    test = splits["test"].frames
    seconds = [test.features[n, : int(test.counts[n]), 1].tolist() for n in range(3)]
    assert seconds == [[0, 1], [1, 2], [10]]


def test_features_by_segment(tmp_path: Path) -> None:
    known = [("xHr8X2Wpmno", 0), ("GLd3aX16zBg", 4), ("a_b-c", 2), ("last", 0), ("last", 2)]
    video, segment = np.array([name for name, _ in known]), np.array([number for _, number in known])
    np.savez(tmp_path / "f.npz", features=np.arange(10).reshape(5, 2), video=video, segment=segment)
    with pytest.raises(UserError, match=r"f\.npz: . of . train segments have no features \(.*\); set data\.allow_miss"):
        load_youcook2(config(tmp_path, official()))
    splits = load_youcook2(config(tmp_path, official(), allow_missing_videos=True))
    assert splits["test"].videos == ["xHr8X2Wpmno_0"]
    assert splits["test"].frames.features.tolist() == [[[0, 1]]]
    assert splits["test"].captions == [Caption(0, "step 0 of xHr8X2Wpmno")]
    found = sorted(splits["train"].videos + splits["validation"].videos)
    assert found == ["GLd3aX16zBg_4", "a_b-c_2", "last_0", "last_2"]
    assert splits["test"].left_out is not None
    assert splits["test"].left_out.names == ("xHr8X2Wpmno_2", "xHr8X2Wpmno_4")


def test_a_segment_beyond_the_features(tmp_path: Path) -> None:
    features(tmp_path)
    content = official()
    content["database"]["xHr8X2Wpmno"]["annotations"][2]["segment"] = [22, 30]
    with pytest.raises(UserError, match=r"1 of 3 test segments have no features \(xHr8X2Wpmno_4\)"):
        load_youcook2(config(tmp_path, content))


def test_univl_files(tmp_path: Path) -> None:
    features(tmp_path, {"last": "last.npy"})
    (tmp_path / "train.csv").write_text("video_id,feature_file\nlast,last.npy\na_b-c,a_b-c\n")
    (tmp_path / "val.csv").write_text("video_id\nxHr8X2Wpmno\n")
    lists = {"train_list": "train.csv", "test_list": "val.csv"}
    splits = load_youcook2(config(tmp_path, converted(), validation=0.0, **lists))
    assert splits["train"].videos == ["last_0", "last_1", "last_2", "a_b-c_0", "a_b-c_1", "a_b-c_2"]
    assert splits["train"].transcripts == ["none", "well then", ""] * 2
    assert splits["train"].frames.features[2, :2].tolist() == [[3, 20], [3, 21]]
    assert splits["test"].captions[1] == Caption(1, "step 1 of xHr8X2Wpmno")
    for video in VIDEOS:
        parts = [
            read_youcook2(config(tmp_path, content, **lists).place("a.json"))[0][video]
            for content in (official(), converted())
        ]
        assert [step[1:4] for step in parts[0]] == [step[1:4] for step in parts[1]]


def test_mistakes_in_lists(tmp_path: Path) -> None:
    features(tmp_path)
    (tmp_path / "val.csv").write_text("video_id\nxHr8X2Wpmno\n")
    for text, message in (
        ("nobody\n", r"train\.csv:2: unknown video 'nobody'; expected one of the annotations"),
        ("last\nlast\n", r"train\.csv:3: 'last' comes twice; expected each video once"),
        ("xHr8X2Wpmno\n", r"a\.json: 'xHr8X2Wpmno' is in train and in test; nothing may be in both"),
    ):
        (tmp_path / "train.csv").write_text("video_id\n" + text)
        with pytest.raises(UserError, match=message):
            load_youcook2(config(tmp_path, converted(), train_list="train.csv", test_list="val.csv"))
    with pytest.raises(UserError, match=r"a\.json: says not which videos to train on; set data\.train_list and data"):
        load_youcook2(config(tmp_path, converted()))


def changed_segment(**changes: object) -> dict[str, Any]:
    content = official()
    content["database"]["last"]["annotations"][1].update(changes)
    return content


def changed_lists(**changes: object) -> dict[str, Any]:
    return {"last": {**converted()["last"], **changes}}


MISTAKES: dict[str, tuple[object, str]] = {
    "no object": ([], ": is no JSON object; expected annotations of YouCook2"),
    "no database": ({"database": []}, ": 'database' is no JSON object; expected one entry a video"),
    "no segments": ({"database": {"a": {}}}, ": 'a' has no list 'annotations'; expected its segments"),
    "subset": (
        {"database": {"a": {"annotations": [], "subset": "val"}}},
        ": subset of 'a' is 'val'; expected training or validation",
    ),
    "no id": (changed_segment(id="2"), ": 'last': annotations[1]: has no 'id' or no 'segment'; expected a number, and"),
    "three times": (changed_segment(segment=[1, 2, 3]), ": 'last': annotations[1]: has no 'id' or no 'segment'"),
    "twice": (changed_segment(id=0), ": 'last': annotations[1]: segment 0 comes twice; expected each once"),
    "backward": (
        changed_segment(segment=[5, 5]),
        ": 'last': annotations[1]: is from 5 to 5 s; expected 0 <= start < end",
    ),
    "below zero": (
        changed_segment(segment=[-1, 5]),
        ": 'last': annotations[1]: is from -1 to 5 s; expected 0 <= start",
    ),
    "never ends": (changed_segment(segment=[1, float("inf")]), ": 'last': annotations[1]: is from 1 to inf s"),
    "no number": (changed_segment(segment=[1, float("nan")]), ": 'last': annotations[1]: is from 1 to nan s"),
    "text": (changed_segment(segment=[1, "2"]), ": 'last': annotations[1]: time '2'; expected a number of seconds"),
    "empty": (changed_segment(sentence=" "), ": 'last': annotations[1]: the sentence is empty; expected a sentence"),
    "no sentence": (
        changed_segment(sentence=None),
        ": 'last': annotations[1]: the sentence is None; expected a sentence",
    ),
    "lists": (changed_lists(start=[1]), ": 'last': 'start', 'end' and 'text' are no lists of one length; expected a"),
    "no lists": ({"last": 3}, ": 'last': 'start', 'end' and 'text' are no lists of one length; expected a"),
    "transcript": (changed_lists(transcript=[1, "", ""]), ": 'last': segment 0: transcript is 1; expected a text"),
    "empty text": (
        changed_lists(text=["a", "", "b"]),
        ": 'last': segment 1: the sentence is empty; expected a sentence",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_annotations(tmp_path: Path, mistake: str) -> None:
    content, said = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load_youcook2(config(tmp_path, content))
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}{said}")
    assert "\n" not in str(caught.value)


def test_no_transcripts_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    content = converted()
    for entry in content.values():
        del entry["transcript"]
    path.write_text(json.dumps(content))
    assert {step.transcript for steps in read_youcook2(path)[0].values() for step in steps} == {""}


def test_the_real_files(data_root: Path) -> None:
    values = {"root": str(data_root), "allow_missing_videos": True}
    splits = load_youcook2(YouCook2DataConfig.model_validate(values))
    assert len(splits["test"]) == 450
    assert len(splits["train"]) + len(splits["validation"]) == 1350
    assert splits["train"].frames.features.shape[1:] == (1, 1280)
    with np.load(data_root / "youcook2" / "step_features.npz", allow_pickle=False) as file:
        texts = {
            f"{v}_{s}": str(t).strip() for v, s, t in zip(file["video"], file["segment"], file["text"], strict=True)
        }
    for split in splits.values():
        assert [caption.text for caption in split.captions] == [texts[video] for video in split.videos]
