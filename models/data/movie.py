"""What an alignment data set is made of: movies, their clips in time order, their text snippets in time order."""

from dataclasses import dataclass

Alignment = list[tuple[int, ...]]
"""For each clip, in time order, the indices of the snippets it is matched with (empty: unmatched).

YMS matches a clip with at most one snippet and a snippet with many clips; Match-Retain-Video also allows one clip
with many snippets, which is why an entry is a tuple.
"""


@dataclass(frozen=True, slots=True)
class Clip:
    """A piece of video. `start` and `end` are seconds from the movie's start, `start < end`."""

    id: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of text with the interval (seconds) that it annotates. `matched` is false for a text with no video."""

    id: str
    text: str
    start: float
    end: float
    matched: bool = True


@dataclass(frozen=True, slots=True)
class Movie:
    """Two sequences to align. Both are in time order and do not overlap within themselves."""

    id: str
    clips: tuple[Clip, ...]
    snippets: tuple[Snippet, ...]
