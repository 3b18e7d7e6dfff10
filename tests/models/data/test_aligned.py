"""Alignments as times: annotations that read back, subtitles in order, and room for texts that nothing shows."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.aligned import annotated, write_subtitles
from models.data.movie import Alignment, Clip, Movie, Snippet
from models.data.scripts import Passage, read_script
from models.data.timecode import format_interval
from models.data.yms import read_yms, write_yms
from models.errors import UserError


def movie(ends: list[float], snippets: int) -> Movie:
    clips = tuple(Clip(format_interval("m", a, b), a, b) for a, b in pairwise([0.0, *ends]))
    return Movie("m", clips, tuple(Snippet("", f"text {j}", j, j + 1) for j in range(snippets)))


def times(of: Movie) -> list[tuple[float, float, bool]]:
    return [(s.start, s.end, s.matched) for s in of.snippets]


def test_a_text_lasts_from_its_first_clip_to_its_last() -> None:
    found = annotated(movie([1, 2.5, 4, 9], 3), [(0,), (), (0,), (1, 2)])
    assert times(found) == [(0, 4, True), (4, 6.5, True), (6.5, 9, True)]
    assert found.snippets[0].id == "m_00.00.00.000-00.00.04.000"


def test_a_text_without_video_has_a_second_or_its_share_of_the_gap() -> None:
    found = annotated(movie([1, 4, 5, 5.5, 6], 5), [(0,), (), (2,), (), (4,)])
    assert times(found) == [(0, 1, True), (1, 2, False), (4, 5, True), (5, 5.5, False), (5.5, 6, True)]


def test_neighbours_make_room_where_there_is_none() -> None:
    found = annotated(movie([1, 2], 4), [(0,), (2,)])
    assert times(found) == [(0, 1, True), (1, 1.001, False), (1.001, 1.999, True), (1.999, 2, False)]


@given(st.data())
def test_any_alignment_reads_back_from_its_annotations(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=6))
    total = sum(lengths)
    snippets = data.draw(st.integers(1, min(total, 12)))
    ends = [sum(lengths[: i + 1]) / 1000 for i in range(len(lengths))]
    owners = sorted(data.draw(st.lists(st.integers(-1, snippets - 1), min_size=len(lengths), max_size=len(lengths))))
    alignment: Alignment = [(j,) if j >= 0 else () for j in owners]
    folder = tmp_path_factory.mktemp("yms")
    found = annotated(movie(ends, snippets), alignment)
    write_yms(folder, {"m": found}, {"train": [], "validation": [], "test": ["m"]})
    assert read_yms(folder) == {"m": found}
    assert [s.matched for s in found.snippets] == [j in owners for j in range(snippets)]


def test_more_texts_than_milliseconds() -> None:
    with pytest.raises(UserError, match="3 texts have no room in 2 ms"):
        annotated(movie([0.002], 3), [()])


def test_subtitles_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    write_subtitles(
        path,
        [
            Snippet("", "One \u2028 line", 0, 1.5),
            Snippet("", "nowhere", 1.5, 1.501, matched=False),
            Snippet("", "then 1 --> 2", 3661.25, 7322),
        ],
    )
    assert path.read_text(encoding="utf-8") == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne line\n\n2\n01:01:01,250 --> 02:02:02,000\nthen 1 → 2\n"
    )
    assert read_script(path) == [Passage("One line", 0, 1.5), Passage("then 1 → 2", 3661.25, 7322)]
