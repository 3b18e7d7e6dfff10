"""The two figures of an alignment: video accuracy and text IoU (NeuMATCH section 4.2; both in percent)."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.data.movie import Alignment, Movie

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Score:
    """Percent, 0 to 100; over several movies the mean of the movies' figures, each movie counting the same."""

    video_accuracy: float
    text_iou: float

    @property
    def mean(self) -> float:
        """The one number by which a baseline's settings are chosen."""
        return (self.video_accuracy + self.text_iou) / 2


def video_accuracy(movie: Movie, alignment: Alignment) -> float:
    """Seconds of correctly aligned video over all seconds of video, in percent.

    A matched clip is right where it overlaps the union of its snippets' gold intervals (a snippet that has no video
    in the gold has none); an unmatched clip is right where no matched snippet covers it.

    Raises:
        ValueError: the alignment does not fit the movie, or the movie has no clips.
    """
    _check(movie, alignment)
    covered = _merge(_gold(movie, range(len(movie.snippets))))
    correct = 0.0
    for clip, texts in zip(movie.clips, alignment, strict=True):
        span = (clip.start, clip.end)
        correct += _overlap(span, _merge(_gold(movie, texts))) if texts else clip.seconds - _overlap(span, covered)
    return 100 * correct / sum(clip.seconds for clip in movie.clips)


def text_iou(movie: Movie, alignment: Alignment) -> float:
    """Mean over ALL snippets of the IoU of their clips' union with their gold interval, in percent.

    A snippet without clips scores 0, and so does one that has no video in the gold.

    Raises:
        ValueError: the alignment does not fit the movie, or the movie has no snippets.
    """
    return sum(snippet_ious(movie, alignment)) / len(movie.snippets)


def snippet_ious(movie: Movie, alignment: Alignment) -> list[float]:
    """The IoU of each snippet, in percent; `text_iou` is their mean. Raises as `text_iou` does."""
    _check(movie, alignment)
    clips_of: list[list[Interval]] = [[] for _ in movie.snippets]
    for clip, texts in zip(movie.clips, alignment, strict=True):
        for j in texts:
            clips_of[j].append((clip.start, clip.end))
    ious = []
    for snippet, intervals in zip(movie.snippets, clips_of, strict=True):
        predicted = _merge(intervals)
        intersection = _overlap((snippet.start, snippet.end), predicted) if snippet.matched else 0.0
        union = _seconds(predicted) + (snippet.end - snippet.start) - intersection
        ious.append(100 * intersection / union if intersection > 0 else 0.0)
    return ious


def score(movies: Sequence[Movie], alignments: Sequence[Alignment]) -> Score:
    """Both figures, averaged over the movies.

    Raises:
        ValueError: there are no movies, not one alignment a movie, or an alignment that does not fit its movie.
    """
    if not movies or len(movies) != len(alignments):
        raise ValueError(f"needs one alignment a movie: {len(movies)} movies, {len(alignments)} alignments")
    pairs = list(zip(movies, alignments, strict=True))
    return Score(
        video_accuracy=sum(video_accuracy(movie, alignment) for movie, alignment in pairs) / len(pairs),
        text_iou=sum(text_iou(movie, alignment) for movie, alignment in pairs) / len(pairs),
    )


def _check(movie: Movie, alignment: Alignment) -> None:
    if not movie.clips or not movie.snippets:
        raise ValueError(f"movie {movie.id} cannot be scored: {len(movie.clips)} clips, {len(movie.snippets)} snippets")
    if len(alignment) != len(movie.clips):
        raise ValueError(f"movie {movie.id}: the alignment has {len(alignment)} entries for {len(movie.clips)} clips")
    strangers = {j for texts in alignment for j in texts if not 0 <= j < len(movie.snippets)}
    if strangers:
        raise ValueError(f"movie {movie.id}: snippet {min(strangers)} is not one of its {len(movie.snippets)} snippets")


def _gold(movie: Movie, texts: Iterable[int]) -> list[Interval]:
    return [(movie.snippets[j].start, movie.snippets[j].end) for j in texts if movie.snippets[j].matched]


def _merge(intervals: Iterable[Interval]) -> list[Interval]:
    """The union as disjoint intervals in time order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _overlap(span: Interval, merged: Sequence[Interval]) -> float:
    """Seconds that `span` shares with a merged union."""
    total = 0.0
    for start, end in merged[max(0, bisect_right(merged, span) - 1) :]:
        if start >= span[1]:
            break
        total += max(0.0, min(end, span[1]) - max(start, span[0]))
    return total


def _seconds(merged: Iterable[Interval]) -> float:
    return sum(end - start for start, end in merged)
