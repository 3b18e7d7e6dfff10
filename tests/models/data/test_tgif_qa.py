"""TGIF-QA's official files, generated, and what is said of each mistake in them."""

from pathlib import Path
from typing import Any

import pytest

from models.data.tgif_qa import TGIFQAConfig, load_tgif_qa
from models.errors import UserError
from tests.support.asked_files import (
    CHOICE_HEADER,
    FRAME_HEADER,
    choice,
    frame_question,
    has_all,
    write_tabs,
    write_tgif,
)


def config(folder: Path, **changes: Any) -> TGIFQAConfig:
    values = {"root": str(folder), "folder": ".", "frames": "gifs", "validation": 0.2, **changes}
    return TGIFQAConfig.model_validate(values)


@pytest.mark.parametrize("subset", ["action", "transition"])
def test_multiple_choice(tmp_path: Path, subset: str) -> None:
    write_tgif(tmp_path)
    asked = load_tgif_qa(config(tmp_path, subset=subset), has_all)
    assert asked.kind == config(tmp_path, subset=subset).kind == "multiple_choice"
    assert asked.classes == ()
    assert len(asked.splits["train"]) + len(asked.splits["validation"]) == 10
    assert len(asked.splits["validation"].videos) == 2
    assert asked.splits["test"].videos == ["tumblr_x0_400", "tumblr_x1_400"]
    tested = asked.splits["test"].items
    assert [(item.video, item.answer) for item in tested] == [(0, 0), (0, 1), (1, 2)]
    assert tested[1].texts == tuple(
        f"What does the man do 1 times ? {option}"
        for option in ("jump 1", "nod head", "wave hands", "strum guitar", "step")
    )
    trained, held = (set(asked.splits[name].videos) for name in ("train", "validation"))
    assert trained | held == {f"tumblr_t{n}_250" for n in range(8)}
    assert not trained & held


def test_questions_about_a_frame(tmp_path: Path) -> None:
    write_tgif(tmp_path)
    asked = load_tgif_qa(config(tmp_path, subset="frameqa", validation=0), has_all)
    assert asked.kind == "open_ended"
    assert asked.classes == ("black", "cat", "two")  # 4, 3 and 3 of ten
    assert [item.answer for item in asked.splits["train"].items] == [0, 2, 1, 0, 2, 1, 0, 2, 1, 0]
    assert [item.texts for item in asked.splits["test"].items] == [
        ("what is the color of the cat ?",),
        ("how many men dance ?",),
        ("what eats ?",),
    ]
    assert [item.video for item in asked.splits["test"].items] == [0, 0, 1]
    assert asked.splits["validation"].items == []
    assert load_tgif_qa(config(tmp_path, subset="frameqa", top=1, validation=0), has_all).classes == ("black",)


def test_a_gif_that_is_trained_on_and_tested_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tgif(tmp_path)
    load_tgif_qa(config(tmp_path), has_all)
    assert capsys.readouterr().err == ""
    write_tabs(
        tmp_path / "Test_action_question.csv", CHOICE_HEADER, [choice(f"tumblr_t{n}_250", n, "0") for n in (3, 4)]
    )
    asked = load_tgif_qa(config(tmp_path, validation=0.9), has_all)
    assert "Train_action_question.csv: 2 of 2 test videos are trained on too" in capsys.readouterr().err
    # What chooses the epoch is not what is tested.
    assert not set(asked.splits["validation"].videos) & set(asked.splits["test"].videos)


def test_gifs_without_frames(tmp_path: Path) -> None:
    write_tgif(tmp_path)
    with pytest.raises(UserError, match=r"gifs: 1 of 2 test videos have no frames \(tumblr_x0_400\)"):
        load_tgif_qa(config(tmp_path), lambda gif: gif != "tumblr_x0_400")
    asked = load_tgif_qa(config(tmp_path, allow_missing_videos=True), lambda gif: gif != "tumblr_x0_400")
    assert [(item.video, item.answer) for item in asked.splits["test"].items] == [(0, 2)]


def row(**changes: str) -> tuple[str, ...]:
    return tuple((dict(zip(CHOICE_HEADER, choice("tumblr_x5_400", 5, "3"), strict=True)) | changes).values())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(answer="5")],
            r"Test_action_question\.csv:2: the answer is '5'; expected the number of an option",
        ),
        ([row(answer="jump")], r"csv:2: the answer is 'jump'"),
        ([row(question="")], r"csv:2: the question is empty"),
        ([row(a4=" ")], r"csv:2: option a4 is empty"),
        ([row(gif_name="../secret")], r"csv:2: video '\.\./secret' is no name below"),
        ([row(gif_name="")], r"csv:2: video '' is no name"),
        ([row()[:-1]], r"csv:2: 9 cells; expected 10"),
        ([row(question='"half')], r"csv:2: is no line of a CSV file .*; expected cells separated by tabs"),
        ([], r"Test_action_question\.csv: holds no question"),
    ],
)
def test_mistakes_in_choices(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    write_tgif(tmp_path)
    write_tabs(tmp_path / "Test_action_question.csv", CHOICE_HEADER, rows)
    with pytest.raises(UserError, match=message):
        load_tgif_qa(config(tmp_path), has_all)


def test_mistakes_in_files(tmp_path: Path) -> None:
    write_tgif(tmp_path)
    path = tmp_path / "Train_frameqa_question.csv"
    write_tabs(path, FRAME_HEADER, [frame_question("tumblr_t0_250", 0, "what ?", " ")])
    with pytest.raises(UserError, match=r"Train_frameqa_question\.csv:2: the answer is empty"):
        load_tgif_qa(config(tmp_path, subset="frameqa"), has_all)
    path.write_text("gif_name,question,answer,type,vid_id,key,description\n")
    with pytest.raises(UserError, match=r"Train_frameqa_question\.csv:1: no column 'gif_name' among gif_name,question"):
        load_tgif_qa(config(tmp_path, subset="frameqa"), has_all)
    path.unlink()
    with pytest.raises(UserError, match=r"Train_frameqa_question\.csv: no such file"):
        load_tgif_qa(config(tmp_path, subset="frameqa"), has_all)
