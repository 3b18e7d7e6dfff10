"""Reads LSMDC's official annotation files (Large Scale Movie Description Challenge): clips with one sentence each.

A line holds, separated by tabs: clip id `MOVIE_START-END`, start and end as aligned by hand, start and end of the
extracted clip, sentence. The extraction widens a clip of under 2 s symmetrically to 2 s.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from models.data.files import read_lines
from models.data.movie import Clip, Movie, Snippet
from models.data.timecode import parse_interval, parse_timecode
from models.errors import UserError

_WIDENED = 2.0
"""Seconds: two short clips that merely touch are each widened by less than 1 s on that side, so the extraction alone
makes neighbours overlap by less than this. A longer overlap is a fault of the annotation."""


@dataclass(slots=True)
class _Entry:
    line: int
    aligned: tuple[float, float]
    start: float
    end: float
    sentences: list[str]


def _interval(where: str, what: str, start: str, end: str) -> tuple[float, float]:
    try:
        interval = parse_timecode(start), parse_timecode(end)
    except UserError as error:
        raise UserError(f"{where}: {what} interval: {error}") from None
    if interval[1] <= interval[0]:
        raise UserError(f"{where}: {what} interval {start} to {end} ends at or before its start; expected start < end")
    return interval


def _separate(path: Path, entries: list[tuple[str, _Entry]]) -> None:
    """Cut the overlap of neighbours at the middle of what lies between their aligned intervals.

    So that neither loses video that was aligned by hand (cutting at the end of the first clip would take from the
    second alone, and often all of it). Raises UserError for an overlap that the extraction cannot explain, or one that
    would leave a clip empty.
    """
    for (before_id, before), (id, entry) in itertools.pairwise(entries):
        overlap = before.end - entry.start
        if overlap <= 0:
            continue
        cut = (before.aligned[1] + entry.aligned[0]) / 2
        cut = round(min(max(cut, entry.start), before.end), 3)
        if overlap > _WIDENED or not before.start < cut < entry.end:
            raise UserError(
                f"{path}:{entry.line}: clip {id} overlaps {before_id} (line {before.line}) by {overlap:.3f} s; "
                f"expected clips that follow each other, up to the {_WIDENED:g} s that widening short clips explains; "
                "remove one of the lines"
            )
        before.end = entry.start = cut


def read_lsmdc(path: Path) -> dict[str, Movie]:
    """All movies of an annotation file, by movie id; each clip matches the snippet of the same index.

    A clip's interval is the extracted one (that is the video a feature is computed from), and its snippet gets the same
    interval, so that the oracle matches them one to one; ids are the clip ids. Clips are sorted by time. The
    official files list a clip id once for each of its sentences: they are joined by a blank into one text. Overlaps of
    neighbours of up to 2 s, which widening causes, are cut between the aligned intervals.

    Raises UserError naming file and line for a missing or undecodable file, a line without six columns, malformed
    times or ids, an interval that does not end after its start, an empty sentence, a repeated clip id with other
    times, and a longer overlap.
    """
    movies: dict[str, dict[str, _Entry]] = {}
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        columns = line.split("\t")
        if len(columns) != 6:
            raise UserError(
                f"{where}: {len(columns)} columns; expected 6 separated by tabs: clip id, start and end aligned, start "
                "and end extracted, sentence"
            )
        id, sentence = columns[0], columns[5].strip()
        try:
            movie = parse_interval(id).movie
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        aligned = _interval(where, "aligned", columns[1], columns[2])
        start, end = _interval(where, "extracted", columns[3], columns[4])
        if not sentence:
            raise UserError(f"{where}: empty sentence for clip {id}; expected a text")
        entry = movies.setdefault(movie, {}).setdefault(id, _Entry(number, aligned, start, end, []))
        if (entry.aligned, entry.start, entry.end) != (aligned, start, end):
            raise UserError(f"{where}: clip {id} has other times than in line {entry.line}; expected the same")
        entry.sentences.append(sentence)
    if not movies:
        raise UserError(f"{path}: holds no clips; expected one line a clip")
    return {movie: _build(path, movie, entries) for movie, entries in movies.items()}


def _build(path: Path, movie: str, entries: dict[str, _Entry]) -> Movie:
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].end))
    _separate(path, ordered)
    return Movie(
        movie,
        tuple(Clip(id, entry.start, entry.end) for id, entry in ordered),
        tuple(Snippet(id, " ".join(entry.sentences), entry.start, entry.end) for id, entry in ordered),
    )
