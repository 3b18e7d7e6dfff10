"""MSVD-QA's official files, generated, and what is said of each mistake in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.data.asked import Item
from models.data.msvd_qa import MSVDQAConfig, load_msvd_qa
from models.errors import UserError
from tests.support.asked_files import has_all, questions, write_msvd, youtube_id


def config(folder: Path, **changes: Any) -> MSVDQAConfig:
    return MSVDQAConfig.model_validate({"root": str(folder), "folder": ".", "frames": "videos", **changes})


def test_the_splits_and_answers(tmp_path: Path) -> None:
    write_msvd(tmp_path)
    asked = load_msvd_qa(config(tmp_path), has_all)
    assert asked.kind == config(tmp_path).kind == "open_ended"
    # jump and man come twice in training, the others once, by name.
    assert asked.classes == ("jump", "man", "cat", "eat", "run")
    assert asked.splits["train"].videos == [youtube_id(number) for number in (1, 2, 3, 4)]
    assert [item.answer for item in asked.splits["train"].items] == [0, 2, 4, 1, 0, 1, 3]
    assert asked.splits["validation"].items == [
        Item(0, ("who is eating?",), -1),  # dog is no training answer
        Item(0, ("what is a dog doing?",), 3),
    ]
    assert [(item.video, item.answer) for item in asked.splits["test"].items] == [(0, 0), (1, -1), (1, 1)]
    few = load_msvd_qa(config(tmp_path, top=2), has_all)
    assert few.classes == ("jump", "man")
    assert [item.answer for item in few.splits["train"].items] == [0, -1, -1, 1, 0, 1, -1]


def test_videos_may_keep_their_numbers(tmp_path: Path) -> None:
    write_msvd(tmp_path)
    (tmp_path / "youtube_mapping.txt").unlink()
    assert load_msvd_qa(config(tmp_path, mapping=None), has_all).splits["test"].videos == ["vid6", "vid7"]


def test_answers_of_videos_without_frames_do_not_count(tmp_path: Path) -> None:
    write_msvd(tmp_path)
    gone = {youtube_id(1), youtube_id(7)}
    with pytest.raises(UserError, match=rf"videos: 1 of 4 train videos have no frames \({youtube_id(1)}\)"):
        load_msvd_qa(config(tmp_path), lambda video: video not in gone)
    asked = load_msvd_qa(config(tmp_path, allow_missing_videos=True), lambda video: video not in gone)
    assert asked.classes == ("man", "eat", "jump", "run")
    assert [len(asked.splits[split]) for split in ("train", "validation", "test")] == [5, 2, 1]


def test_mistakes_in_questions(tmp_path: Path) -> None:
    write_msvd(tmp_path)
    path = tmp_path / "test_qa.json"
    good = questions({6: [("what?", "jump"), ("who?", "man")]})

    def refused(content: object, message: str) -> None:
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            load_msvd_qa(config(tmp_path), has_all)

    refused([good[0], {**good[1], "question": " "}], r"test_qa\.json: \[1\]: the question is empty")
    refused([{**good[0], "answer": ""}], r"test_qa\.json: \[0\]: the answer is empty")
    refused([{**good[0], "answer": 3}], r"test_qa\.json: \[0\]: the answer is 3; expected")
    refused([{"id": 1, "question": "a"}], r"test_qa\.json: \[0\] has no 'video_id' or no 'id'; expected")
    refused([{**good[0], "video_id": "6"}], r"test_qa\.json: \[0\] has no 'video_id'")
    refused([7], r"test_qa\.json: \[0\] has no 'video_id'")
    refused([good[0], good[0]], r"test_qa\.json: \[1\]: question 0 comes twice; expected each once")
    refused([{**good[0], "video_id": 99}], r"test_qa\.json: \[0\]: unknown video 99")
    refused([{**good[0], "video_id": 1}], rf"'{youtube_id(1)}' is in test and in train; nothing may be in both")
    refused([], r"test_qa\.json: holds no question")
    refused({"questions": good}, r"test_qa\.json: is no JSON list")
    path.write_text('[{"answer": "a",\n')
    with pytest.raises(UserError, match=r"test_qa\.json:2: column 1 is no JSON"):
        load_msvd_qa(config(tmp_path), has_all)
    path.unlink()
    with pytest.raises(UserError, match=r"test_qa\.json: no such file"):
        load_msvd_qa(config(tmp_path), has_all)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("abc vid1\nabc\n", r"mapping\.txt:2: 'abc'; expected a YouTube id and vidN"),
        ("abc vid1 x\n", r"mapping\.txt:1: 'abc vid1 x'; expected"),
        ("abc vid\n", r"mapping\.txt:1: "),
        ("abc 1\n", r"mapping\.txt:1: "),
        ("abc vid1\ndef vid1\n", r"mapping\.txt:2: 'vid1' comes twice"),
        ("abc vid1\nabc vid2\n", r"mapping\.txt:2: 'abc' comes twice"),
        ("../../abc vid1\n", r"mapping\.txt:1: video '\.\./\.\./abc' is no name below the folder"),
    ],
)
def test_mistakes_in_the_mapping(tmp_path: Path, lines: str, message: str) -> None:
    write_msvd(tmp_path)
    (tmp_path / "youtube_mapping.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        load_msvd_qa(config(tmp_path), has_all)
