"""MSRVTT-QA as json and as csv, generated and real, and what is said of each mistake in them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from models.data.asked import Item
from models.data.msrvtt_qa import MSRVTTQAConfig, load_msrvtt_qa
from models.errors import UserError
from models.metrics.answering import first_word, majority
from tests.support.asked_files import has_all, questions

PARTS = {
    "train": {n: [("what is a man doing?", "sing"), ("who is it?", "man" if n % 2 else "dog")] for n in range(6)},
    "val": {6513: [("how many?", "two")], 6514: [("who?", "dog"), ("who?", "man")]},
    "test": {n: [("what is a man doing?", "sing" if n % 3 else "run"), ("who?", "man")] for n in range(7010, 7020)},
}


def config(folder: Path, **changes: Any) -> MSRVTTQAConfig:
    return MSRVTTQAConfig.model_validate({"root": str(folder), "folder": ".", **changes})


def write_json(folder: Path, *parts: str) -> None:
    """With the category of each video, as published."""
    for place, part in enumerate(parts):
        rows = [{**row, "category_id": row["video_id"] % 20} for row in questions(PARTS[part], 1000 * place)]
        (folder / f"{part}_qa.json").write_text(json.dumps(rows))


def write_csv(folder: Path, *parts: str) -> None:
    for place, part in enumerate(parts):
        rows = [
            f"{row['video_id']},{row['question']},{row['answer']},{row['id']},3"
            for row in questions(PARTS[part], 1000 * place)
        ]
        (folder / f"{part}.csv").write_text("\n".join(["video,question,answer,qid,type", *rows]) + "\n")


def test_the_splits_and_answers(tmp_path: Path) -> None:
    write_json(tmp_path, "train", "val", "test")
    asked = load_msrvtt_qa(config(tmp_path), has_all)
    assert asked.kind == config(tmp_path).kind == "open_ended"
    assert asked.classes == ("sing", "dog", "man")
    assert asked.splits["train"].videos == [f"video{n}" for n in range(6)]
    assert [item.answer for item in asked.splits["train"].items] == [0, 1, 0, 2] * 3
    assert asked.splits["validation"].items == [
        Item(0, ("how many?",), -1),
        Item(1, ("who?",), 1),
        Item(1, ("who?",), 2),
    ]
    assert len(asked.splits["test"]) == 20
    assert load_msrvtt_qa(config(tmp_path, top=1), has_all).classes == ("sing",)


def test_both_layouts_say_the_same(tmp_path: Path) -> None:
    write_json(tmp_path, "train", "val", "test")
    expected = load_msrvtt_qa(config(tmp_path), has_all)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    write_csv(tmp_path, "train", "val", "test")
    assert load_msrvtt_qa(config(tmp_path), has_all) == expected


def test_without_a_training_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path, "val", "test")
    with pytest.raises(UserError, match=r"train_qa\.json: no such file, nor train\.csv; set data\.train_from_test"):
        load_msrvtt_qa(config(tmp_path), has_all)
    asked = load_msrvtt_qa(config(tmp_path, train_from_test=True, validation=0.2), has_all)
    said = capsys.readouterr().err
    assert said.endswith(
        "no training file: trains on test.csv, 2 of its videos held out, and tests on val.csv; published figures are "
        "not comparable\n"
    )
    assert [(len(s.videos), len(s)) for s in asked.splits.values()] == [(8, 16), (2, 4), (2, 3)]
    trained, held = (set(asked.splits[name].videos) for name in ("train", "validation"))
    assert trained | held == {f"video{n}" for n in range(7010, 7020)}
    assert asked.splits["test"].videos == ["video6513", "video6514"]
    assert set(asked.classes) <= {"sing", "run", "man"}
    write_csv(tmp_path, "train")
    with pytest.raises(UserError, match=r"train\.csv: is there; set data\.train_from_test=false"):
        load_msrvtt_qa(config(tmp_path, train_from_test=True), has_all)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7013,what?,run,x1,3", r"test\.csv:2: qid is 'x1'; expected a number"),
        ("video7013,what?,run,1,3", r"test\.csv:2: video is 'video7013'; expected a number"),
        ("7013,what?,run," + "9" * 5000 + ",3", r"test\.csv:2: qid is '999"),
        ("-1,what?,run,1,3", r"test\.csv:2: video is '-1'"),
        ("7013, ,run,1,3", r"test\.csv:2: the question is empty"),
        ("7013,what?,,1,3", r"test\.csv:2: the answer is empty"),
        ("7013,what?,run,1", r"test\.csv:2: 4 cells; expected 5"),
        ("7013,what?,run,1,3\n7013,who?,man,1,3", r"test\.csv:3: question 1 comes twice; expected each once"),
        ("3,what?,run,1,3", r"'video3' is in test and in train; nothing may be in both"),
        ("", r"test\.csv: holds no question"),
    ],
)
def test_mistakes(tmp_path: Path, line: str, message: str) -> None:
    write_csv(tmp_path, "train", "val")
    (tmp_path / "test.csv").write_text(f"video,question,answer,qid,type\n{line}\n")
    with pytest.raises(UserError, match=message):
        load_msrvtt_qa(config(tmp_path), has_all)


def test_mistakes_in_files(tmp_path: Path) -> None:
    write_csv(tmp_path, "train", "val")
    with pytest.raises(UserError, match=r"test_qa\.json: no such file"):
        load_msrvtt_qa(config(tmp_path), has_all)
    (tmp_path / "test.csv").write_text("video,question,answer,type\n1,a,b,3\n")
    with pytest.raises(UserError, match=r"test\.csv:1: no column 'qid'"):
        load_msrvtt_qa(config(tmp_path), has_all)
    (tmp_path / "test.csv").write_bytes(b"video,question,answer,qid,type\n1,\xff,b,3,3\n")
    with pytest.raises(UserError, match=r"test\.csv:2: .*not UTF-8"):
        load_msrvtt_qa(config(tmp_path), has_all)


def test_the_real_files(data_root: Path) -> None:
    asked = load_msrvtt_qa(MSRVTTQAConfig(root=str(data_root), train_from_test=True), has_all)
    train, validation, test = asked.splits.values()
    assert len(train) + len(validation) == 35_986
    assert (len(train.videos), len(validation.videos), len(test.videos), len(test)) == (1389, 43, 244, 6217)
    assert len(asked.classes) == 1500
    assert asked.classes[:3] == ("man", "woman", "talk")
    kinds = Counter(first_word(item.texts[0]) for item in test.items)
    assert kinds == {"what": 4209, "who": 1724, "how": 199, "when": 55, "where": 30}
    assert majority(train.items, test.items) == pytest.approx(100 * 593 / 6217)
