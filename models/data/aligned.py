"""An alignment as times: from when to when each snippet is shown, as annotations and as subtitles."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.data.files import atomic_path
from models.data.movie import Alignment, Movie, Snippet
from models.data.timecode import format_interval
from models.errors import UserError

Span = tuple[int, int]
"""Start and end in milliseconds."""
_SLOT = 1000
"""Milliseconds, at most, of a snippet that nothing shows."""


def annotated(movie: Movie, alignment: Alignment) -> Movie:
    """The movie with its snippets at the times at which `alignment` shows them, in whole milliseconds.

    A snippet lasts from the start of its first clip to the end of its last; snippets that share a clip share its time
    out evenly. One without clips is `matched=False` and gets a slot of at least a millisecond where it comes, for
    which its neighbours make room where there is none. Ids are MOVIE_START-END.

    Raises:
        UserError: the movie has fewer milliseconds than snippets.
    """
    begin, end = (round(1000 * time) for time in (movie.clips[0].start, movie.clips[-1].end))
    if end - begin < len(movie.snippets):
        raise UserError(
            f"movie {movie.id}: {len(movie.snippets)} texts have no room in {end - begin} ms of video; "
            "is it the right script?"
        )
    shown = _shown(movie, alignment)
    snippets = [
        replace(
            snippet,
            id=format_interval(movie.id, start / 1000, stop / 1000),
            start=start / 1000,
            end=stop / 1000,
            matched=span is not None,
        )
        for snippet, span, (start, stop) in zip(movie.snippets, shown, _in_order(shown, begin, end), strict=True)
    ]
    return Movie(movie.id, movie.clips, tuple(snippets))


def _shown(movie: Movie, alignment: Alignment) -> list[Span | None]:
    shown: list[Span | None] = [None] * len(movie.snippets)
    for clip, texts in zip(movie.clips, alignment, strict=True):
        for place, j in enumerate(texts):
            share = clip.seconds / len(texts)
            start, end = (round(1000 * (clip.start + share * part)) for part in (place, place + 1))
            before = shown[j]
            shown[j] = (start if before is None else before[0], end)
    return shown


def _in_order(shown: Sequence[Span | None], begin: int, end: int) -> list[Span]:
    """The same spans, and slots where there are none: in order, none empty, none over another."""
    spans: list[Span] = []
    at, waiting = begin, 0
    for span in [*shown, (end, end)]:
        if span is None:
            waiting += 1
            continue
        length = max(1, min(_SLOT, (span[0] - at) // max(1, waiting)))
        spans += [(at + length * i, at + length * (i + 1)) for i in range(waiting)]
        spans.append(span)
        at, waiting = span[1], 0
    spans.pop()
    # Where there was no room, what follows is pushed on, and from the end back.
    at = begin
    for number, (start, stop) in enumerate(spans):
        late = max(start, at)
        spans[number] = (late, at := max(stop, late + 1))
    for number, (start, stop) in reversed([*enumerate(spans)]):
        early = min(stop, end)
        spans[number] = (end := min(start, early - 1), early)
    return spans


def write_subtitles(path: Path, snippets: Sequence[Snippet]) -> None:
    """Writes the matched ones of `snippets` as SubRip (.srt) at their times; the unmatched have none, and are left out.

    Texts become one line, in which an arrow of time codes is written as a letter. Raises UserError where the file
    cannot be written.
    """
    # webvtt's writer would leave out whatever of a text looks like a tag.
    blocks = [
        f"{number}\n{_clock(snippet.start)} --> {_clock(snippet.end)}\n"
        f"{' '.join(snippet.text.split()).replace('-->', '→')}\n"
        for number, snippet in enumerate((s for s in snippets if s.matched), start=1)
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(blocks), encoding="utf-8")


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d},{milliseconds:03d}"
