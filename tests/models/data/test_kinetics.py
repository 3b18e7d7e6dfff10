"""Kinetics' official files and lists of paths, generated, and what is said of each mistake in them."""

from pathlib import Path
from typing import Any

import pytest

from models.data.asked import Item
from models.data.kinetics import KineticsConfig, load_kinetics
from models.errors import UserError
from tests.support.asked_files import KINETICS_HEADER, clip, has_all, write_kinetics


def config(folder: Path, **changes: Any) -> KineticsConfig:
    values = {"root": str(folder), "train": "train.csv", "test": "validate.csv", "frames": "clips", "validation": 0.34}
    return KineticsConfig.model_validate({**values, **changes})


def test_the_official_files(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    asked = load_kinetics(config(tmp_path), has_all)
    assert asked.kind == config(tmp_path).kind == "recognition"
    assert asked.classes == ("abseiling", "making tea, hot", "tap dancing")
    assert {name: len(split) for name, split in asked.splits.items()} == {"train": 6, "validation": 3, "test": 3}
    test = asked.splits["test"]
    assert test.videos == [f"test{n}_000100_000110" for n in range(3)]
    assert test.items == [Item(0, (), 2), Item(1, (), 0), Item(2, (), 1)]
    found = {
        split.videos[item.video]: item.answer
        for split in (asked.splits["train"], asked.splits["validation"])
        for item in split.items
    }
    assert found == {f"-train_{n}_{7 * n:06d}_{7 * n + 10:06d}": (2, 0, 1)[n % 3] for n in range(9)}


def test_a_column_more_or_less(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    expected = load_kinetics(config(tmp_path), has_all)
    for name in ("train.csv", "validate.csv"):
        lines = (tmp_path / name).read_text().splitlines()
        (tmp_path / name).write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    assert load_kinetics(config(tmp_path), has_all) == expected


def lists(folder: Path, train: str, test: str, classes: str = "zumba\nabseiling\n") -> KineticsConfig:
    for name, text in (("train.txt", train), ("val.txt", test), ("classes.txt", classes)):
        (folder / name).write_text(text)
    return config(folder, train="train.txt", test="val.txt", class_list="classes.txt", validation=0)


def test_lists_of_paths(tmp_path: Path) -> None:
    found = lists(tmp_path, "zumba/a b_000001_000011.mp4 0\nabseiling/c.d.avi 1\n", "e.mp4 1\n")
    asked = load_kinetics(found, has_all)
    assert asked.classes == ("zumba", "abseiling")  # as they are counted
    assert asked.splits["train"].videos == ["a b_000001_000011", "c.d"]
    assert [item.answer for item in asked.splits["train"].items] == [0, 1]
    assert (asked.splits["test"].videos, asked.splits["test"].items) == (["e"], [Item(0, (), 1)])


def test_a_class_list_orders_the_labels(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    (tmp_path / "classes.txt").write_text("tap dancing\nyoga\nabseiling\nmaking tea, hot\n")
    asked = load_kinetics(config(tmp_path, class_list="classes.txt"), has_all)
    assert asked.classes == ("tap dancing", "yoga", "abseiling", "making tea, hot")
    assert [item.answer for item in asked.splits["test"].items] == [0, 2, 3]


def test_clips_without_frames(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    with pytest.raises(UserError, match=r"clips: 1 of 3 test videos have no frames \(test1_000100_000110\)"):
        load_kinetics(config(tmp_path), lambda name: not name.startswith("test1"))
    asked = load_kinetics(config(tmp_path, allow_missing_videos=True), lambda name: not name.startswith("test1"))
    assert [(item.video, item.answer) for item in asked.splits["test"].items] == [(0, 2), (1, 1)]
    assert len(asked.classes) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([clip("yoga", "a", 1)], r"validate\.csv:2: unknown class 'yoga'; expected one of those of .*train\.csv"),
        ([clip("abseiling", "a", 1)] * 2, r"validate\.csv:3: clip 'a_000001_000011' comes twice"),
        (
            [clip("abseiling", "-train_1", 7)],
            r"'-train_1_000007_000017' is in test and in train; nothing may",
        ),
        (["abseiling,a,11,1,test,0"], r"validate\.csv:2: is from '11' to '1'; expected seconds"),
        (["abseiling,a,0.5,10,test,0"], r"validate\.csv:2: is from '0\.5' to '10'"),
        (["abseiling,a,1," + "9" * 5000 + ",test,0"], r"validate\.csv:2: is from '1' to '999"),
        (["abseiling,a,-1,10,test,0"], r"validate\.csv:2: is from '-1'"),
        ([",a,1,11,test,0"], r"validate\.csv:2: has no label or no youtube_id"),
        (["abseiling, ,1,11,test,0"], r"validate\.csv:2: has no label or no youtube_id"),
        (["abseiling,../a,1,11,test,0"], r"validate\.csv:2: video '\.\./a_000001_000011' is no name below"),
        (["abseiling,a,1,11"], r"validate\.csv:2: 4 cells; expected 6"),
        ([], r"validate\.csv: holds no clip"),
    ],
)
def test_mistakes_in_official_files(tmp_path: Path, lines: list[str], message: str) -> None:
    write_kinetics(tmp_path)
    (tmp_path / "validate.csv").write_text("\n".join([KINETICS_HEADER, *lines]) + "\n")
    with pytest.raises(UserError, match=message):
        load_kinetics(config(tmp_path), has_all)


@pytest.mark.parametrize(
    ("test", "classes", "message"),
    [
        ("e.mp4 2\n", "a\nb\n", r"val\.txt:1: 'e\.mp4 2'; expected a path and a class, 0 to 1"),
        ("e.mp4 b\n", "a\nb\n", r"val\.txt:1: 'e\.mp4 b'; expected"),
        ("e.mp4\n", "a\nb\n", r"val\.txt:1: 'e\.mp4'; expected"),
        ("../e.mp4 1\n", "a\nb\n", r"val\.txt:1: video '\.\./e\.mp4' is no name below"),
        ("/films/e.mp4 1\n", "a\nb\n", r"val\.txt:1: video '/films/e\.mp4' is no name below"),
        ("a/e.mp4 1\nb/e.avi 0\n", "a\nb\n", r"val\.txt:2: clip 'e' comes twice"),
        ("e.mp4 1\n", "a\nb\na\n", r"classes\.txt:3: class 'a' comes twice"),
        ("e.mp4 1\n", "\n", r"classes\.txt: is empty; expected a class a line"),
        ("", "a\nb\n", r"val\.txt: holds no clip"),
    ],
)
def test_mistakes_in_lists(tmp_path: Path, test: str, classes: str, message: str) -> None:
    found = lists(tmp_path, "x/t.mp4 0\n", test, classes)
    with pytest.raises(UserError, match=message):
        load_kinetics(found, has_all)


def test_lists_need_names_for_their_classes(tmp_path: Path) -> None:
    found = lists(tmp_path, "x/t.mp4 0\n", "e.mp4 1\n")
    with pytest.raises(UserError, match=r"train\.txt: counts its classes; set data\.class_list"):
        load_kinetics(found.model_copy(update={"class_list": None}), has_all)
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        load_kinetics(config(tmp_path, train="none.csv"), has_all)
