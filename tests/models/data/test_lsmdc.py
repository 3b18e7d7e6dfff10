"""LSMDC's annotation files: one sentence a clip, overlaps of widened clips, and every error by its line."""

from pathlib import Path

import pytest

from models.data.lsmdc import read_lsmdc
from models.data.movie import Clip, Snippet
from models.data.timecode import format_timecode
from models.errors import UserError
from models.neumatch.oracle import oracle_alignment


def line(
    aligned: tuple[float, float],
    text: str = "SOMEONE walks.",
    extracted: tuple[float, float] | None = None,
    movie: str = "1_The_End",
) -> str:
    a, b, c, d = (format_timecode(t) for t in (*aligned, *(extracted or aligned)))
    return "\t".join([f"{movie}_{a}-{b}", a, b, c, d, text])


def save(folder: Path, *lines: str) -> Path:
    path = folder / "annos.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_clips_and_sentences_match_one_to_one(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        line((51.926, 54.129), "SOMEONE smiles.", movie="0001_American_Beauty"),
        line((60.5, 61.0), "He turns.", (59.75, 61.75), movie="0001_American_Beauty"),
        line((1, 4), movie="0002_As_Good"),
    )
    movies = read_lsmdc(path)
    assert list(movies) == ["0001_American_Beauty", "0002_As_Good"]
    movie = movies["0001_American_Beauty"]
    second = "0001_American_Beauty_00.01.00.500-00.01.01.000"
    assert movie.clips[1] == Clip(second, 59.75, 61.75)
    assert movie.snippets[1] == Snippet(second, "He turns.", 59.75, 61.75)
    assert oracle_alignment(movie) == [(0,), (1,)]


def test_clips_are_put_in_movie_order(tmp_path: Path) -> None:
    movie = read_lsmdc(save(tmp_path, line((5, 8), "b"), line((1, 4), "a")))["1_The_End"]
    assert [snippet.text for snippet in movie.snippets] == ["a", "b"]


def test_sentences_of_one_clip_become_one_text(tmp_path: Path) -> None:
    movie = read_lsmdc(save(tmp_path, line((1, 4), "He sits. "), line((1, 4), "He stands.")))["1_The_End"]
    assert [snippet.text for snippet in movie.snippets] == ["He sits. He stands."]
    assert len(movie.clips) == 1


def test_widened_neighbours_are_cut_between_their_aligned_intervals(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        line((10.0, 10.4), "a", (9.2, 11.2)),
        line((10.5, 10.9), "b", (9.7, 11.7)),
        line((10.9, 15.0), "c"),
    )
    movie = read_lsmdc(path)["1_The_End"]
    assert [(clip.start, clip.end) for clip in movie.clips] == [(9.2, 10.45), (10.45, 10.9), (10.9, 15.0)]
    assert [(s.start, s.end) for s in movie.snippets] == [(c.start, c.end) for c in movie.clips]
    assert oracle_alignment(movie) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("second", [line((7.9, 12.0), "b"), line((5.0, 6.0), "b"), line((8.5, 8.6), "b")])
def test_overlaps_that_widening_does_not_explain(tmp_path: Path, second: str) -> None:
    path = save(tmp_path, line((0.0, 10.0), "a"), second)
    with pytest.raises(
        UserError, match=r"overlaps 1_The_End_.* \(line 1\) by .* s; expected clips that follow"
    ) as caught:
        read_lsmdc(path)
    assert str(caught.value).startswith(f"{path}:2: clip ")


ERRORS = {
    "columns": ("1_The_End_00.00.01.000-00.00.02.000\ta", "2 columns; expected 6 separated by tabs: clip id"),
    "id": (line((5, 8)).replace("_00", "", 1), "malformed interval"),
    "time": (
        line((5, 8)).replace("\t00.00.08.000", "\t8"),
        "aligned interval: malformed time '8'; expected HH.MM.SS.mmm",
    ),
    "aligned": (line((5, 8)).replace("\t00.00.08.000", "\t00.00.05.000", 1), "aligned interval 00.00.05.000 to"),
    "extracted": (line((5, 8), extracted=(9, 7)), "extracted interval 00.00.09.000 to 00.00.07.000 ends at or before"),
    "empty": (line((5, 8), " "), "empty sentence for clip 1_The_End_00.00.05.000-00.00.08.000; expected a text"),
    "other times": (line((1, 4), extracted=(0.5, 4)), "has other times than in line 1; expected the same"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_line(tmp_path: Path, name: str) -> None:
    bad, message = ERRORS[name]
    path = save(tmp_path, line((1, 4)), bad)
    with pytest.raises(UserError) as caught:
        read_lsmdc(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_files_without_clips(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_lsmdc(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"annos\.csv: holds no clips; expected one line a clip"):
        read_lsmdc(save(tmp_path))
