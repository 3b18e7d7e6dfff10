"""What is asked: items by the number of their video, what is left out, and names that lead nowhere else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.asked import Entry, Item, asked_split, check_name
from models.data.msrvtt_qa import MSRVTTQAConfig
from models.data.questions import most_frequent
from models.errors import UserError

ENTRIES = [Entry("b", ("one",), 0), Entry("a", ("two",), -1), Entry("b", ("three",), 2), Entry("c", (), 1)]


def config(folder: Path, allow: bool = False) -> MSRVTTQAConfig:
    return MSRVTTQAConfig(root=str(folder), frames="tars/f_*.tar", allow_missing_videos=allow)


def test_items_count_the_videos_of_their_split(tmp_path: Path) -> None:
    split = asked_split(config(tmp_path), lambda _: True, "train", ENTRIES)
    assert split.videos == ["b", "a", "c"]
    assert split.items == [Item(0, ("one",), 0), Item(1, ("two",), -1), Item(0, ("three",), 2), Item(2, (), 1)]
    assert (len(split), split.left_out) == (4, None)


def test_what_has_no_frames_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = {"a", "c"}.__contains__
    with pytest.raises(UserError, match=r"f_\*\.tar: 1 of 3 test videos have no frames \(b\); set data\.allow_missing"):
        asked_split(config(tmp_path), there, "test", ENTRIES)
    split = asked_split(config(tmp_path, True), there, "test", ENTRIES)
    assert split.videos == ["a", "c"]
    assert split.items == [Item(0, ("two",), -1), Item(1, (), 1)]
    assert capsys.readouterr().err == f"{split.left_out}; left out\n"
    with pytest.raises(UserError, match=r"3 of 3 test videos .*are these frames of another data set\?"):
        asked_split(config(tmp_path, True), lambda _: False, "test", ENTRIES)
    assert asked_split(config(tmp_path), lambda _: False, "validation", []).videos == []


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-1, 3))), st.sets(st.sampled_from("abcdef")))
def test_every_item_that_is_kept_keeps_its_video(asked: list[tuple[str, int]], there: set[str]) -> None:
    entries = [Entry(video, (str(place),), answer) for place, (video, answer) in enumerate(asked)]
    kept = [entry for entry in entries if entry.video in there]
    if entries and not kept:
        return
    split = asked_split(config(Path("/data"), True), there.__contains__, "train", entries)
    assert [(split.videos[item.video], item.texts, item.answer) for item in split.items] == [tuple(e) for e in kept]
    assert len(set(split.videos)) == len(split.videos) == len({entry.video for entry in kept})
    lost = {entry.video for entry in entries} - there
    assert (set(split.left_out.names) if split.left_out else set()) == lost


@pytest.mark.parametrize(
    "name", ["", ".", "/etc/passwd", "../up", "a/../../b", "..\\up", "C:\\films\\a", "a\x00b", "a\nb"]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^file\.csv:3: video "):
        check_name(name, "file.csv:3")


@pytest.mark.parametrize("name", ["video7", "-4wsuPCjDBc_5_15", "class of clips/a.b_000001_000011.mp4", "é"])
def test_names_that_are_let_through(name: str) -> None:
    assert check_name(name, "here") == name


@given(st.lists(st.sampled_from(["cat", "dog", "man", "two", "red"])), st.integers(1, 6))
def test_the_most_frequent_answers_do_not_depend_on_the_order(answers: list[str], top: int) -> None:
    found = most_frequent(answers, top)
    assert found == most_frequent(answers[::-1], top)
    assert len(found) == min(top, len(set(answers)))
    keys = [(-answers.count(answer), answer) for answer in found]
    assert keys == sorted(keys)
    left = set(answers) - set(found)
    assert all((-answers.count(answer), answer) > keys[-1] for answer in left)
