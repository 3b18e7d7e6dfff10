"""Time codes `HH.MM.SS.mmm` and interval ids `MOVIE_START-END`, as YMS and LSMDC write them."""

import re
from pathlib import Path
from typing import NamedTuple

from models.errors import UserError

_TIME = r"([0-9]{2})\.([0-5][0-9])\.([0-5][0-9])\.([0-9]{3})"
_TIMECODE = re.compile(_TIME)
_INTERVAL = re.compile(rf"(?P<movie>.+)_(?P<start>{_TIME})-(?P<end>{_TIME})")
_LIMIT_MS = 100 * 60 * 60 * 1000


class Interval(NamedTuple):
    """A stretch of a movie; `start` and `end` in seconds, `start < end`."""

    movie: str
    start: float
    end: float


def parse_timecode(text: str) -> float:
    """Seconds of `HH.MM.SS.mmm`. Raises UserError (without a place: the caller knows the line) if malformed."""
    match = _TIMECODE.fullmatch(text)
    if match is None:
        raise UserError(f"malformed time {text!r}; expected HH.MM.SS.mmm, such as 00.01.02.345")
    hours, minutes, seconds, milliseconds = (int(group) for group in match.groups())
    # One division of an integer: the same time always gives the same float, and formatting it gives the text back.
    return (((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds) / 1000


def format_timecode(seconds: float) -> str:
    """`HH.MM.SS.mmm` of a time in seconds, to the nearest millisecond. Raises UserError outside 0 to 100 hours."""
    # A NaN fails both comparisons, so the test is written as what must hold.
    if not 0 <= seconds < _LIMIT_MS / 1000 or (total := round(seconds * 1000)) >= _LIMIT_MS:
        raise UserError(f"time {seconds} s cannot be written as HH.MM.SS.mmm; expected 0 s or more, under 100 hours")
    whole, milliseconds = divmod(total, 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}.{minutes % 60:02d}.{second:02d}.{milliseconds:03d}"


def movie_id_of(path: Path) -> str:
    """What a film or script is called after its file: names stand in text files, between blanks."""
    return "_".join(path.stem.split())


def check_movie_id(movie: str) -> None:
    """Raises UserError unless `movie` is safe as a file name and as a line of a split file.

    No blanks, no slashes, printable, and no leading dot (`..`, hidden files) or `#` (a comment in a split file).
    """
    if not movie.isprintable() or not movie or movie[0] in ".#" or any(c.isspace() or c in "/\\" for c in movie):
        raise UserError(
            f"bad movie name {movie!r}; expected printable characters without blanks or slashes, not led by '.' or '#'"
        )


def parse_interval(text: str) -> Interval:
    """Parts of `MOVIE_START-END`; MOVIE may contain underscores.

    Raises UserError (without a place) when the text is malformed or the interval does not end after its start.
    """
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise UserError(
            f"malformed interval {text!r}; expected MOVIE_START-END, such as 0001_00.00.07.640-00.00.09.050"
        )
    movie = match["movie"]
    check_movie_id(movie)
    interval = Interval(movie, parse_timecode(match["start"]), parse_timecode(match["end"]))
    if interval.end <= interval.start:
        raise UserError(f"interval {text!r} ends at or before its start; expected START < END")
    return interval


def format_interval(movie: str, start: float, end: float) -> str:
    """`MOVIE_START-END` of an interval in seconds, to the nearest millisecond."""
    return f"{movie}_{format_timecode(start)}-{format_timecode(end)}"
