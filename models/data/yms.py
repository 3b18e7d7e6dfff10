"""Reads and writes the official files of YMS (YouTube Movie Summaries) and of data sets in its formats.

Formats: `annotations_phrases.txt` holds `MOVIE_START-END<TAB>text`, `clip_segmentation.txt` holds
`MOVIE/MOVIE_START-END`, the split files hold one movie a line and comments that begin with `#`.
"""

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from models.data.files import atomic_path, read_lines, split_lines
from models.data.movie import Clip, Movie, Snippet
from models.data.timecode import Interval, format_interval, parse_interval
from models.errors import UserError

ANNOTATIONS = "annotations_phrases.txt"
SEGMENTATION = "clip_segmentation.txt"
SPLIT_FILES = {"train": "training_split.txt", "validation": "val_split.txt", "test": "test_split.txt"}

_TOLERANCE = 1e-6
"""Seconds by which neighbours may overlap: the times are written in milliseconds, so this only absorbs rounding."""

_SILENT = "UNMATCHED"
_UNMATCHED = re.compile(r"(?:UNMATCHED|UNMACTHED)\s*:(.*)", re.DOTALL)  # the official file misspells it once
_OFFICIAL_WITHOUT_TEXT = "0073_00.02.01.480-00.02.02.680"
"""The one official phrase whose text is missing. It is read as video without narration; any other is an error."""


class _Timeline:
    """Checks that the intervals of one file have distinct ids and lie in time order without overlap, movie by movie."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Interval, int]] = {}
        self._lines: dict[str, int] = {}
        self.first_line: dict[str, int] = {}

    def add(self, where: str, line: int, id: str) -> Interval:
        try:
            interval = parse_interval(id)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if id in self._lines:
            raise UserError(f"{where}: duplicate of line {self._lines[id]} ({id}); expected each interval once")
        self._lines[id] = line
        self.first_line.setdefault(interval.movie, line)
        if interval.movie in self._last:
            last, last_line = self._last[interval.movie]
            if interval.start < last.start:
                raise UserError(
                    f"{where}: {id} starts before line {last_line} of the same movie; expected lines in time order"
                )
            if interval.start < last.end - _TOLERANCE:
                raise UserError(
                    f"{where}: {id} overlaps line {last_line} by {last.end - interval.start:.3f} s; "
                    "expected intervals that do not overlap"
                )
        self._last[interval.movie] = (interval, line)
        return interval


def _parse_text(text: str) -> tuple[bool, str] | None:
    """(matched, text) of a phrase, or None for video without narration. Raises UserError without a place."""
    text = text.strip()
    if text == _SILENT:
        return None
    marked = _UNMATCHED.fullmatch(text)
    if marked is not None:
        text = marked[1].strip()
    elif text.startswith(_SILENT):
        raise UserError(f"unclear text {text[:60]!r}; expected 'UNMATCHED' alone or 'UNMATCHED: text'")
    if not text:
        raise UserError("empty text; expected a phrase, 'UNMATCHED' or 'UNMATCHED: text'")
    return marked is None, text


def _parse_snippets(path: Path, lines: list[tuple[int, str]]) -> tuple[dict[str, list[Snippet]], dict[str, int]]:
    timeline, snippets = _Timeline(), dict[str, list[Snippet]]()
    for number, line in lines:
        where = f"{path}:{number}"
        id, tab, text = line.partition("\t")
        if not tab or "\t" in text:
            raise UserError(f"{where}: malformed line; expected MOVIE_START-END, one tab, text")
        movie, start, end = timeline.add(where, number, id)
        of_movie = snippets.setdefault(movie, [])
        if id == _OFFICIAL_WITHOUT_TEXT and not text.strip():
            continue
        try:
            parsed = _parse_text(text)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if parsed is not None:
            matched, phrase = parsed
            of_movie.append(Snippet(id, phrase, start, end, matched))
    return snippets, timeline.first_line


def _parse_clips(path: Path, lines: list[tuple[int, str]]) -> tuple[dict[str, list[Clip]], dict[str, int]]:
    timeline, clips = _Timeline(), dict[str, list[Clip]]()
    for number, line in lines:
        where = f"{path}:{number}"
        folder, slash, id = line.strip().partition("/")
        if not slash:
            raise UserError(f"{where}: malformed line; expected MOVIE/MOVIE_START-END")
        movie, start, end = timeline.add(where, number, id)
        if folder != movie:
            raise UserError(f"{where}: folder {folder!r} differs from the movie of {id}; expected {movie}/{id}")
        clips.setdefault(movie, []).append(Clip(id, start, end))
    return clips, timeline.first_line


def _check_same_movies(here: Path, lines: Mapping[str, int], there: Path, others: Container[str], what: str) -> None:
    for movie, line in lines.items():
        if movie not in others:
            raise UserError(
                f"{here}:{line}: movie {movie} has no {what} in {there}; expected every movie in both files"
            )


def _parse_movies(
    annotations: Path, phrases: list[tuple[int, str]], segmentation: Path, pieces: list[tuple[int, str]]
) -> dict[str, Movie]:
    snippets, phrase_lines = _parse_snippets(annotations, phrases)
    clips, clip_lines = _parse_clips(segmentation, pieces)
    _check_same_movies(annotations, phrase_lines, segmentation, clips, "clips")
    _check_same_movies(segmentation, clip_lines, annotations, snippets, "phrases")
    if not clips:
        raise UserError(f"{segmentation}: holds no clips; expected lines MOVIE/MOVIE_START-END")
    return {movie: Movie(movie, tuple(clips[movie]), tuple(snippets[movie])) for movie in clips}


def read_yms(folder: Path, annotations: str = ANNOTATIONS, segmentation: str = SEGMENTATION) -> dict[str, Movie]:
    """All movies of a folder in YMS's formats, by movie id, in the order of the segmentation file.

    A phrase `UNMATCHED` is video without narration: it gives no snippet. `UNMATCHED: text` is a snippet with
    `matched=False`. Ids of clips and snippets are `MOVIE_START-END`, times are seconds.

    Raises UserError naming file and line for a missing or undecodable file, a malformed line, an interval that does
    not end after its start, a duplicate, lines out of time order, an overlap, an empty text, a clip in another
    movie's folder, and a movie that only one of the two files has.
    """
    annotations_path, segmentation_path = folder / annotations, folder / segmentation
    return _parse_movies(
        annotations_path, read_lines(annotations_path), segmentation_path, read_lines(segmentation_path)
    )


def read_phrases(path: Path) -> dict[str, list[Snippet]]:
    """The snippets of each movie of an annotation file alone, as `read_yms` reads them.

    Raises UserError naming file and line, as `read_yms`.
    """
    return _parse_snippets(path, read_lines(path))[0]


def read_splits(folder: Path, movies: Mapping[str, Movie]) -> dict[str, list[str]]:
    """The movie ids of the splits "train", "validation" and "test", in file order. A movie may be in none.

    Raises UserError naming file and line for a missing file, a movie that is not in `movies`, and a movie that comes
    twice, in one split or in two.
    """
    splits: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for split, name in SPLIT_FILES.items():
        path = folder / name
        splits[split] = []
        for number, line in read_lines(path):
            movie = line.strip()
            if movie.startswith("#"):
                continue
            if movie not in movies:
                raise UserError(
                    f"{path}:{number}: unknown movie {movie!r}; expected one of the {len(movies)} movies read"
                )
            if movie in seen:
                raise UserError(
                    f"{path}:{number}: movie {movie} is already at {seen[movie]}; expected each movie in one split"
                )
            seen[movie] = f"{path}:{number}"
            splits[split].append(movie)
    return splits


def _phrase_lines(movie: str, snippets: Sequence[Snippet], start: float, end: float) -> list[str]:
    """The annotation lines of a movie in time order, with `UNMATCHED` for the video that no snippet annotates."""
    lines, at = [], start
    for snippet in snippets:
        if at < snippet.start:
            lines.append(f"{format_interval(movie, at, snippet.start)}\t{_SILENT}\n")
        text = snippet.text if snippet.matched else f"{_SILENT}: {snippet.text}"
        lines.append(f"{snippet.id}\t{text}\n")
        at = max(at, snippet.end)
    if at < end:
        lines.append(f"{format_interval(movie, at, end)}\t{_SILENT}\n")
    return lines


def _written(path: Path, lines: Sequence[str], items: Mapping[str, Sequence[Snippet | Clip]]) -> bytes:
    """The lines as a file, which reads back as `items`; UserError where it would not."""
    data = "".join(lines).encode()
    parse = _parse_snippets if path.name == ANNOTATIONS else _parse_clips
    try:
        back = parse(path, split_lines(data, path))[0]
    except UserError as error:
        raise UserError(f"these movies cannot be written in YMS's formats: {error}") from None
    for movie in items.keys() | back.keys():
        if list(items.get(movie, ())) != list(back.get(movie, ())):
            raise _changed(movie)
    return data


def _changed(movie: str) -> UserError:
    return UserError(
        f"movie {movie!r} would not read back from YMS's formats; expected ids MOVIE_START-END, times in whole "
        "milliseconds, texts without outer blanks"
    )


def _phrases(
    folder: Path, snippets: Mapping[str, Sequence[Snippet]], spans: Mapping[str, tuple[float, float]]
) -> bytes:
    lines = [line for movie, texts in snippets.items() for line in _phrase_lines(movie, texts, *spans[movie])]
    return _written(folder / ANNOTATIONS, lines, snippets)


def _clips(folder: Path, clips: Mapping[str, Sequence[Clip]]) -> bytes:
    if not clips:
        raise UserError("these movies cannot be written in YMS's formats: there are none; expected at least one")
    for movie, pieces in clips.items():
        if not pieces:
            raise UserError(f"movie {movie!r} has no clips and cannot be written; expected at least one")
    lines = [f"{movie}/{clip.id}\n" for movie, pieces in clips.items() for clip in pieces]
    return _written(folder / SEGMENTATION, lines, clips)


def _splits(folder: Path, movies: Container[str], splits: Mapping[str, Sequence[str]]) -> dict[Path, bytes]:
    if splits.keys() != SPLIT_FILES.keys():
        raise UserError(f"splits {sorted(splits)} cannot be written; expected {', '.join(SPLIT_FILES)}")
    listed: set[str] = set()
    for id in (id for ids in splits.values() for id in ids):
        if id not in movies or id in listed:
            raise UserError(f"splits: movie {id!r} is unknown or listed twice; expected each movie in one split")
        listed.add(id)
    return {folder / name: "".join(f"{id}\n" for id in splits[split]).encode() for split, name in SPLIT_FILES.items()}


def _write(files: Mapping[Path, bytes]) -> None:
    for path, data in files.items():
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)


def write_segmentation(folder: Path, clips: Mapping[str, Sequence[Clip]]) -> None:
    """Writes the clips of each movie, atomically. Raises UserError for what would not read back, as `write_yms`."""
    _write({folder / SEGMENTATION: _clips(folder, clips)})


def write_phrases(
    folder: Path,
    snippets: Mapping[str, Sequence[Snippet]],
    seconds: Mapping[str, float],
    splits: Mapping[str, Sequence[str]],
) -> None:
    """Writes the snippets of movies of so many seconds, and the splits: what `write_yms` does for movies that have no
    clips yet."""
    phrases = _phrases(folder, snippets, {movie: (0.0, seconds[movie]) for movie in snippets})
    _write({folder / ANNOTATIONS: phrases, **_splits(folder, snippets, splits)})


def write_yms(folder: Path, movies: Mapping[str, Movie], splits: Mapping[str, Sequence[str]]) -> None:
    """Write movies and splits in YMS's formats, each file atomically; `read_yms` and `read_splits` give them back.

    Video without narration gets `UNMATCHED` lines. Raises UserError, before anything is written, for what would not
    read back: times finer than a millisecond, ids that are not `MOVIE_START-END`, texts with line breaks, tabs or
    outer blanks, a movie without clips, a split movie that is unknown or listed twice.
    """
    for id, movie in movies.items():
        if id != movie.id:
            raise _changed(id)
    pieces = _clips(folder, {id: movie.clips for id, movie in movies.items()})
    spans = {id: (movie.clips[0].start, movie.clips[-1].end) for id, movie in movies.items()}
    phrases = _phrases(folder, {id: movie.snippets for id, movie in movies.items()}, spans)
    lists = _splits(folder, movies, splits)
    _write({folder / ANNOTATIONS: phrases, folder / SEGMENTATION: pieces, **lists})
