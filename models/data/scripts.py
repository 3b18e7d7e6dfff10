"""Reads the text of a film, passage by passage: plain text, subtitles, screenplays, and annotations as YMS has them.

Subtitles and annotations say when a passage is spoken or shown; those times are kept, as gold to compare with.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import webvtt
from sentencex import segment as split_sentences
from webvtt.errors import MalformedFileError
from webvtt.models import Timestamp

from models.data.files import read_lines
from models.data.timecode import parse_interval
from models.data.yms import read_phrases
from models.errors import UserError

Format = Literal["lines", "srt", "vtt", "screenplay", "yms"]
_SUFFIXES: dict[str, Format] = {".srt": "srt", ".vtt": "vtt", ".fountain": "screenplay"}


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text in the order of the film.

    Attributes:
        start, end: seconds, where the file tells them.
        matched: false for a text that is known to have no video.
    """

    text: str
    start: float | None = None
    end: float | None = None
    matched: bool = True


def read_script(
    path: Path,
    format: Format | None = None,
    *,
    sentences: bool = False,
    language: str = "en",
    dialogue: bool = False,
    movie: str | None = None,
) -> list[Passage]:
    """The passages of a file, at least one.

    Args:
        format: default: by the suffix (.srt, .vtt, .fountain); a .txt file whose first line begins with
            MOVIE_START-END is `yms`, any other has one passage a line.
        sentences: cuts and joins the text into sentences. The times of a sentence are shared out by letters.
        language: of the text, for `sentences` (ISO 639-1).
        dialogue: of a screenplay: also what is said, as "SPEAKER: text"; otherwise what is seen alone.
        movie: whose annotations, where a file holds those of several.

    Raises:
        UserError: file and line of whatever is malformed; a file without text; a movie that it does not hold.
    """
    chosen = format or format_of(path)
    if chosen in ("srt", "vtt"):
        passages = _subtitles(path, chosen)
    elif chosen == "screenplay":
        passages = list(_screenplay(path, dialogue))
    elif chosen == "yms":
        passages = _annotations(path, movie)
    else:
        passages = [Passage(" ".join(line.split())) for _, line in read_lines(path)]
    if not passages:
        raise UserError(f"{path}: holds no text; expected passages to align")
    return into_sentences(passages, language) if sentences else passages


def format_of(path: Path) -> Format:
    """The format that `read_script` takes a file for. Raises UserError where it has to look inside and cannot."""
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    lines = read_lines(path)
    first, tab, _ = lines[0][1].partition("\t") if lines else ("", "", "")
    if not tab:
        return "lines"
    try:
        parse_interval(first)
    except UserError:
        return "lines"
    return "yms"


def _annotations(path: Path, movie: str | None) -> list[Passage]:
    movies = read_phrases(path)
    if movie is None and len(movies) != 1:
        raise UserError(f"{path}: holds {len(movies)} movies; name one of them (such as {next(iter(movies))})")
    name = next(iter(movies)) if movie is None else movie
    if name not in movies:
        raise UserError(f"{path}: has no movie {name!r}; there are {', '.join(list(movies)[:8])}, {len(movies)} in all")
    return [Passage(snippet.text, snippet.start, snippet.end, snippet.matched) for snippet in movies[name]]


_TIMING = re.compile(r"(?:\d+:)?\d{1,2}:\d{1,2}[,.]\d{1,3}\s+-->\s+(?:\d+:)?\d{1,2}:\d{1,2}[,.]\d{1,3}(?:\s.*)?")


_ARROW = re.compile(r".*-->|\s*\d[\d:.,]*\s*[-=]+>")


def _subtitles(path: Path, format: Literal["srt", "vtt"]) -> list[Passage]:
    lines = read_lines(path)
    # The library passes over what it cannot read; a lost line would go unnoticed.
    for number, line in lines:
        if _ARROW.match(line) and not _TIMING.fullmatch(line.strip()):
            raise UserError(f"{path}:{number}: malformed times {line.strip()[:60]!r}; expected START --> END")
    try:
        cues: Any = webvtt.from_buffer(io.BytesIO(path.read_bytes()), format=format)
    except MalformedFileError:
        first = "WEBVTT" if format == "vtt" else "1, then START --> END"
        raise UserError(f"{path}:1: is no .{format} file; expected it to begin with {first}") from None
    passages: list[Passage] = []
    for cue in cues:
        start, end = (Timestamp.from_string(time).in_milliseconds() / 1000 for time in (cue.start, cue.end))
        text = " ".join(cue.text.split())
        if end <= start:
            raise UserError(f"{path}: the passage at {cue.start} ends at {cue.end}; expected an end after its start")
        if passages and start < (passages[-1].start or 0.0):
            raise UserError(f"{path}: the passage at {cue.start} comes after a later one; expected them in time order")
        if text:
            passages.append(Passage(text, start, end))
    return [_cut_short(passage, following) for passage, following in zip(passages, [*passages[1:], None], strict=True)]


def _cut_short(passage: Passage, following: Passage | None) -> Passage:
    """Subtitles of two speakers may overlap; a passage ends where the next begins."""
    if following is None or passage.start is None or passage.end is None or following.start is None:
        return passage
    overlap = passage.start < following.start < passage.end
    return replace(passage, end=following.start) if overlap else passage


# Fountain (fountain.io/syntax), the plain text format of screenplays. Times of day and places head a scene.
_SCENE = re.compile(r"(?:\.(?!\.)|(?:INT|EXT|EST|INT\.?/EXT|I/E)[. ]).*", re.IGNORECASE)
_SPEAKER = re.compile(r"@.+|(?=[^a-z]*[A-Z])[^a-z]+?(?:\s*\([^)]*\))*\s*\^?")
_EMPHASIS = re.compile(r"(?<!\\)(\*{1,3}|_)(?=\S)(.+?)(?<=\S)(?<!\\)\1")
_TITLE = re.compile(r"[A-Za-z][A-Za-z ]*:")


def _screenplay(path: Path, dialogue: bool) -> Iterator[Passage]:
    lines = dict(read_lines(path))
    text = "\n".join(lines.get(number, "") for number in range(1, max(lines, default=0) + 1))
    text = re.sub(r"/\*.*?\*/|\[\[.*?\]\]", "", text, flags=re.DOTALL)
    blocks = [block.split("\n") for block in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")) if block.strip()]
    if blocks and _TITLE.match(blocks[0][0]):  # the title page
        blocks = blocks[1:]
    for block in blocks:
        head, lines_left = block[0].strip(), block
        if head[:1] in "#=~" or _SCENE.fullmatch(head):
            lines_left = [] if head[:1] in "#=~" else block[1:]
        elif head.startswith(">") or (head.isupper() and head.endswith("TO:")):
            continue
        elif len(block) > 1 and not head.startswith("!") and _SPEAKER.fullmatch(head):
            said = " ".join(line.strip() for line in block[1:] if not re.fullmatch(r"\s*\(.*\)\s*", line))
            if dialogue and said:
                speaker = re.sub(r"\s*\(.*|\^", "", head.removeprefix("@")).strip()
                yield Passage(f"{speaker}: {_plain(said)}")
            continue
        seen = _plain(" ".join(line.strip().removeprefix("!") for line in lines_left))
        if seen:
            yield Passage(seen)


def _plain(text: str) -> str:
    while (bare := _EMPHASIS.sub(r"\2", text)) != text:
        text = bare
    return " ".join(text.replace("\\", "").split())


def into_sentences(passages: Sequence[Passage], language: str = "en") -> list[Passage]:
    """The same text as sentences, whose times are shared out by letters.

    Subtitles, which break a sentence where the screen is full, are joined first; passages without times are cut where
    they stand, and so are those that a text without video, or a second without any, keeps apart.
    """
    joined: list[list[Passage]] = []
    for passage in passages:
        last = joined[-1][-1] if joined else None
        if last is not None and _goes_on(last, passage):
            joined[-1].append(passage)
        else:
            joined.append([passage])
    return [sentence for group in joined for sentence in _cut(group, language)]


def _goes_on(last: Passage, passage: Passage) -> bool:
    if last.end is None or passage.start is None or last.matched != passage.matched:
        return False
    return passage.start - last.end < 1.0 and last.text[-1] not in '.!?…"”»'


def _cut(group: Sequence[Passage], language: str) -> Iterator[Passage]:
    text = " ".join(passage.text for passage in group)
    clock: list[tuple[int, int, Passage]] = []
    at = 0
    for passage in group:
        clock.append((at, at + len(passage.text), passage))
        at += len(passage.text) + 1
    at = 0
    for sentence in split_sentences(language, text):
        begin = text.index(sentence.strip(), at) if sentence.strip() else at
        at = begin + len(sentence.strip())
        if sentence.strip():
            yield Passage(sentence.strip(), _time(clock, begin, 0), _time(clock, at, 1), group[0].matched)


def _time(clock: Sequence[tuple[int, int, Passage]], place: int, end: int) -> float | None:
    """When the letter at `place` is spoken; at a boundary, of the passage that ends there if `end`."""
    for begin, stop, passage in clock:
        if place < stop + end:
            if passage.start is None or passage.end is None:
                return None
            share = max(0.0, (place - begin) / (stop - begin))
            return passage.start + share * (passage.end - passage.start)
    return clock[-1][2].end
