"""YMS's files: what is read, every error by its line, and that writing and reading agree."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.movie import Clip, Movie, Snippet
from models.data.timecode import format_interval
from models.data.yms import SPLIT_FILES, read_splits, read_yms, write_yms
from models.errors import UserError

PHRASES = [
    "m_1_00.00.00.000-00.00.02.000\tUNMATCHED",
    "m_1_00.00.02.000-00.00.04.000\t A man walks. ",
    "m_1_00.00.04.000-00.00.05.000\tUNMATCHED:he sleeps",
    "m_1_00.00.05.000-00.00.06.000\tUNMACTHED:  he wakes",
    "m_2_00.00.00.000-00.00.01.000\tUNMATCHED",
]
CLIPS = [
    "m_1/m_1_00.00.00.000-00.00.03.000",
    "m_1/m_1_00.00.03.000-00.00.06.500",
    "m_2/m_2_00.00.00.000-00.00.01.000",
]


def write(folder: Path, phrases: list[str], clips: list[str]) -> None:
    (folder / "annotations_phrases.txt").write_text("\n".join(phrases) + "\n", encoding="utf-8")
    (folder / "clip_segmentation.txt").write_text("\n".join(clips) + "\n", encoding="utf-8")


def test_reading(tmp_path: Path) -> None:
    write(tmp_path, PHRASES, CLIPS)
    movies = read_yms(tmp_path)
    assert list(movies) == ["m_1", "m_2"]
    assert movies["m_1"] == Movie(
        "m_1",
        (Clip("m_1_00.00.00.000-00.00.03.000", 0.0, 3.0), Clip("m_1_00.00.03.000-00.00.06.500", 3.0, 6.5)),
        (
            Snippet("m_1_00.00.02.000-00.00.04.000", "A man walks.", 2.0, 4.0),
            Snippet("m_1_00.00.04.000-00.00.05.000", "he sleeps", 4.0, 5.0, matched=False),
            Snippet("m_1_00.00.05.000-00.00.06.000", "he wakes", 5.0, 6.0, matched=False),
        ),
    )
    assert movies["m_2"].snippets == ()


def test_other_file_names(tmp_path: Path) -> None:
    write(tmp_path, PHRASES, CLIPS)
    (tmp_path / "annotations_phrases.txt").rename(tmp_path / "a.txt")
    (tmp_path / "clip_segmentation.txt").rename(tmp_path / "c.txt")
    assert len(read_yms(tmp_path, "a.txt", "c.txt")) == 2


PHRASE_ERRORS = {
    "no tab": ("m_1_00.00.06.000-00.00.07.000 text", "malformed line; expected MOVIE_START-END, one tab, text"),
    "two tabs": ("m_1_00.00.06.000-00.00.07.000\ta\tb", "malformed line; expected MOVIE_START-END, one tab, text"),
    "bad id": ("m_1_00.00.06-00.00.07\ta", "malformed interval 'm_1_00.00.06-00.00.07'; expected MOVIE_START-END"),
    "escaping": ("../m_00.00.06.000-00.00.07.000\ta", "bad movie name '../m'; expected printable characters"),
    "backwards": ("m_1_00.00.07.000-00.00.06.000\ta", "ends at or before its start; expected START < END"),
    "zero": ("m_1_00.00.07.000-00.00.07.000\ta", "ends at or before its start; expected START < END"),
    "duplicate": ("m_1_00.00.02.000-00.00.04.000\ta", "duplicate of line 2 (m_1_00.00.02.000-00.00.04.000); expected"),
    "order": (
        "m_1_00.00.04.500-00.00.04.600\ta",
        "starts before line 4 of the same movie; expected lines in time order",
    ),
    "overlap": (
        "m_1_00.00.05.900-00.00.07.000\ta",
        "overlaps line 4 by 0.100 s; expected intervals that do not overlap",
    ),
    "silent overlap": ("m_1_00.00.05.999-00.00.07.000\tUNMATCHED", "overlaps line 4 by 0.001 s; expected intervals"),
    "empty": ("m_1_00.00.06.000-00.00.07.000\t ", "empty text; expected a phrase, 'UNMATCHED' or 'UNMATCHED: text'"),
    "empty unmatched": ("m_1_00.00.06.000-00.00.07.000\tUNMATCHED: ", "empty text; expected a phrase"),
    "no colon": (
        "m_1_00.00.06.000-00.00.07.000\tUNMATCHED he",
        "unclear text 'UNMATCHED he'; expected 'UNMATCHED' alone",
    ),
    "no clips": ("m_3_00.00.06.000-00.00.07.000\ta", "movie m_3 has no clips in "),
}


@pytest.mark.parametrize("name", PHRASE_ERRORS)
def test_phrase_errors_name_the_line(tmp_path: Path, name: str) -> None:
    line, message = PHRASE_ERRORS[name]
    write(tmp_path, [*PHRASES[:4], line, PHRASES[4]], CLIPS)
    with pytest.raises(UserError) as caught:
        read_yms(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'annotations_phrases.txt'}:5: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


CLIP_ERRORS = {
    "no folder": ("m_1_00.00.06.500-00.00.07.000", "malformed line; expected MOVIE/MOVIE_START-END"),
    "bad id": ("m_1/m_1_00.00.06.500", "malformed interval 'm_1_00.00.06.500'; expected MOVIE_START-END"),
    "folder": (
        "m_2/m_1_00.00.06.500-00.00.07.000",
        "folder 'm_2' differs from the movie of m_1_00.00.06.500-00.00.07.000",
    ),
    "deep": ("x/m_1/m_1_00.00.06.500-00.00.07.000", "bad movie name 'm_1/m_1'; expected printable characters"),
    "zero": ("m_1/m_1_00.00.06.500-00.00.06.500", "ends at or before its start; expected START < END"),
    "duplicate": ("m_1/m_1_00.00.03.000-00.00.06.500", "duplicate of line 2 (m_1_00.00.03.000-00.00.06.500); expected"),
    "order": (
        "m_1/m_1_00.00.02.000-00.00.06.500",
        "starts before line 2 of the same movie; expected lines in time order",
    ),
    "overlap": (
        "m_1/m_1_00.00.06.000-00.00.08.000",
        "overlaps line 2 by 0.500 s; expected intervals that do not overlap",
    ),
    "no phrases": ("m_3/m_3_00.00.06.000-00.00.08.000", "movie m_3 has no phrases in "),
}


@pytest.mark.parametrize("name", CLIP_ERRORS)
def test_clip_errors_name_the_line(tmp_path: Path, name: str) -> None:
    line, message = CLIP_ERRORS[name]
    write(tmp_path, PHRASES, [*CLIPS[:2], line, CLIPS[2]])
    with pytest.raises(UserError) as caught:
        read_yms(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'clip_segmentation.txt'}:3: ")
    assert message in str(caught.value)


def test_other_file_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"annotations_phrases\.txt: no such file; expected"):
        read_yms(tmp_path)
    write(tmp_path, [], [])
    with pytest.raises(UserError, match=r"clip_segmentation\.txt: holds no clips; expected lines"):
        read_yms(tmp_path)
    write(tmp_path, PHRASES, CLIPS)
    (tmp_path / "clip_segmentation.txt").write_bytes(CLIPS[0].encode() + b"\nm_1/\xe9\n")
    with pytest.raises(UserError, match=r"clip_segmentation\.txt:2: byte 5 of the line is not UTF-8"):
        read_yms(tmp_path)


def test_movies_may_be_interleaved_but_each_is_in_order(tmp_path: Path) -> None:
    write(tmp_path, [PHRASES[4], *PHRASES[:4]], [CLIPS[0], CLIPS[2], CLIPS[1]])
    assert list(read_yms(tmp_path)) == ["m_1", "m_2"]


def write_lists(folder: Path, train: str, validation: str = "", test: str = "") -> None:
    for name, text in zip(SPLIT_FILES.values(), (train, validation, test), strict=True):
        (folder / name).write_text(text)


def test_splits_skip_commented_lines(tmp_path: Path) -> None:
    write(tmp_path, PHRASES, CLIPS)
    movies = read_yms(tmp_path)
    write_lists(tmp_path, "# m_1  # the same as m_2\nm_2\n", "m_1\n")
    assert read_splits(tmp_path, movies) == {"train": ["m_2"], "validation": ["m_1"], "test": []}


def test_split_errors_name_the_line(tmp_path: Path) -> None:
    write(tmp_path, PHRASES, CLIPS)
    movies = read_yms(tmp_path)
    write_lists(tmp_path, "m_1\n", "# none\nm_9\n")
    with pytest.raises(UserError, match=r"val_split\.txt:2: unknown movie 'm_9'; expected one of the 2 movies read"):
        read_splits(tmp_path, movies)
    write_lists(tmp_path, "m_1\n", "", "m_2\nm_1\n")
    with pytest.raises(
        UserError, match=r"test_split\.txt:2: movie m_1 is already at .*training_split\.txt:1; expected"
    ):
        read_splits(tmp_path, movies)
    write_lists(tmp_path, "m_1\nm_1\n")
    with pytest.raises(UserError, match=r"training_split\.txt:2: movie m_1 is already at"):
        read_splits(tmp_path, movies)
    (tmp_path / "test_split.txt").unlink()
    write_lists(tmp_path, "m_1\n")
    (tmp_path / "val_split.txt").unlink()
    with pytest.raises(UserError, match=r"val_split\.txt: no such file"):
        read_splits(tmp_path, movies)


def spans(draw: st.DrawFn, least: int) -> list[tuple[float, float]]:
    times = sorted(draw(st.sets(st.integers(0, 20_000), min_size=least + 1, max_size=12)))
    pairs = [(a / 1000, b / 1000) for a, b in pairwise(times)]
    kept = [pair for pair in pairs if draw(st.booleans())]
    return kept if len(kept) >= least else pairs


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(
    lambda text: (
        text == text.strip() and not set(text) & set("\n\t") and not text.startswith(("UNMATCHED", "UNMACTHED"))
    )
)


@st.composite
def a_movie(draw: st.DrawFn, id: str) -> Movie:
    clips = tuple(Clip(format_interval(id, *span), *span) for span in spans(draw, 1))
    snippets = tuple(
        Snippet(format_interval(id, *span), draw(TEXTS), *span, matched=draw(st.booleans())) for span in spans(draw, 0)
    )
    return Movie(id, clips, snippets)


@st.composite
def data_sets(draw: st.DrawFn) -> dict[str, Movie]:
    ids = draw(st.lists(st.from_regex(r"[a-z0-9é_-]{1,6}", fullmatch=True), min_size=1, max_size=4, unique=True))
    return {id: draw(a_movie(id)) for id in ids}


@settings(deadline=None)
@given(data_sets())
def test_what_is_written_reads_back(movies: dict[str, Movie]) -> None:
    splits: dict[str, list[str]] = {split: [] for split in SPLIT_FILES}
    for i, id in enumerate(movies):
        if i < 3:
            splits[list(splits)[i]].append(id)
    with tempfile.TemporaryDirectory() as folder:
        write_yms(Path(folder), movies, splits)
        assert read_yms(Path(folder)) == movies
        assert read_splits(Path(folder), movies) == splits


def one(text: str = "a", end: float = 1.0, matched: bool = True) -> dict[str, Movie]:
    id = format_interval("m", 0.0, end)
    return {"m": Movie("m", (Clip(id, 0.0, end),), (Snippet(id, text, 0.0, end, matched),))}


@pytest.mark.parametrize(
    "movies",
    [
        one("a\nb"),
        one("a\tb"),
        one(" a"),
        one(""),
        one("UNMATCHED"),
        one("UNMATCHED: a"),
        one("", matched=False),
        one(end=1.00001),
        {"m": Movie("m", (), ())},
        {"n": one()["m"]},
        {"m": Movie("m", (Clip("clip-1", 0.0, 1.0),), ())},
        {"..": Movie("..", (Clip(format_interval("..", 0, 1), 0.0, 1.0),), ())},
    ],
)
def test_what_would_not_read_back_is_refused(tmp_path: Path, movies: dict[str, Movie]) -> None:
    with pytest.raises(UserError):
        write_yms(tmp_path, movies, {split: [] for split in SPLIT_FILES})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "splits",
    [
        {"train": ["m"]},
        {"train": ["m", "m"], "validation": [], "test": []},
        {"train": ["m"], "validation": ["m"], "test": []},
        {"train": ["x"], "validation": [], "test": []},
    ],
)
def test_bad_splits_are_not_written(tmp_path: Path, splits: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match="splits"):
        write_yms(tmp_path, one(), splits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "count", "clips"), [("yms", 94, 16_960), ("yms_msrvtt", 93, 16_802)])
def test_real_folders(data_root: Path, tmp_path: Path, name: str, count: int, clips: int) -> None:
    movies = read_yms(data_root / name)
    assert len(movies) == count
    assert sum(len(movie.clips) for movie in movies.values()) == clips
    splits = read_splits(data_root / name, movies)
    assert {split: len(ids) for split, ids in splits.items()} == {"train": 66, "validation": 12, "test": 15}
    assert "0087" not in {id for ids in splits.values() for id in ids}
    longest = [movies[id] for id in splits["validation"] + splits["test"]]
    assert max(len(movie.clips) for movie in longest) == 249
    assert max(sum(snippet.matched for snippet in movie.snippets) for movie in longest) == 95
    write_yms(tmp_path, movies, splits)
    assert read_yms(tmp_path) == movies


def test_what_is_odd_in_the_official_files(data_root: Path) -> None:
    snippets = {snippet.id: snippet for movie in read_yms(data_root / "yms").values() for snippet in movie.snippets}
    assert not snippets["0003_00.04.16.330-00.04.17.010"].matched  # UNMACTHED
    assert snippets["0003_00.01.22.540-00.01.23.650"].text.startswith("Rachael has")  # no blank after the colon
    assert "0073_00.02.01.480-00.02.02.680" not in snippets  # the one line without text


def test_no_movies_and_a_movie_of_another_name_are_not_written(tmp_path: Path) -> None:
    nothing: dict[str, list[str]] = {split: [] for split in SPLIT_FILES}
    with pytest.raises(UserError, match="there are none; expected at least one"):
        write_yms(tmp_path, {}, nothing)
    clip = Clip("m_00.00.00.000-00.00.01.000", 0.0, 1.0)
    with pytest.raises(UserError, match="movie 'm' would not read back"):
        write_yms(tmp_path, {"m": Movie("other", (clip,), ())}, nothing)
    assert list(tmp_path.iterdir()) == []
