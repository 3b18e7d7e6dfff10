"""The oracle beside an obvious version of itself, by hand, and at the published ceiling of YMS."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.movie import Alignment, Clip, Movie, Snippet
from models.data.yms import read_splits, read_yms
from models.neumatch.oracle import oracle_alignment


def overlap(a: Clip | Snippet, b: Clip | Snippet) -> float:
    return max(0.0, min(a.end, b.end) - max(a.start, b.start))


def every_pair(movie: Movie) -> Alignment:
    """The rule word by word: every clip against every matched snippet."""
    alignment: Alignment = []
    for clip in movie.clips:
        overlaps = [overlap(clip, snippet) if snippet.matched else 0.0 for snippet in movie.snippets]
        longest = max(overlaps, default=0.0)
        uncovered = clip.seconds - sum(overlaps)
        matched = longest > 0 and uncovered <= longest + 1e-6
        alignment.append((next(i for i, o in enumerate(overlaps) if o > longest - 1e-6),) if matched else ())
    return alignment


@st.composite
def movies(draw: st.DrawFn) -> Movie:
    def spans() -> list[tuple[float, float]]:
        # Tenths of a second, few of them: ties and shared boundaries are common, and binary fractions round.
        times = sorted(draw(st.sets(st.integers(0, 60), max_size=20)))
        return [(a / 10, b / 10) for a, b in pairwise(times) if draw(st.integers(0, 3))]

    clips = tuple(Clip(f"c{a}", a, b) for a, b in spans())
    return Movie("m", clips, tuple(Snippet(f"s{a}", "x", a, b, draw(st.integers(0, 3)) > 0) for a, b in spans()))


@given(movies())
def test_the_sweep_agrees_with_every_pair(movie: Movie) -> None:
    assert oracle_alignment(movie) == every_pair(movie)


def align(clips: list[tuple[float, float]], snippets: list[tuple[float, float, bool]]) -> Alignment:
    return oracle_alignment(
        Movie(
            "m", tuple(Clip("c", *span) for span in clips), tuple(Snippet("s", "x", *snippet) for snippet in snippets)
        )
    )


def test_by_hand() -> None:
    one = [(2.0, 4.0, True)]
    assert align([(0, 1), (1, 3), (3, 3.5), (3.5, 6)], one) == [(), (0,), (0,), ()]  # half covered still matches
    assert align([(2, 4)], [(2, 4, False)]) == [()]
    assert align([(0, 4)], [(0, 2, True), (2, 4, True)]) == [(0,)]  # the earlier of two equals
    assert align([(0, 4)], [(0, 1, True), (1, 4, True)]) == [(1,)]
    # What another matched snippet covers does not count as uncovered; what an unmatched one covers does.
    assert align([(0, 5)], [(0, 2, True), (2, 3.5, True)]) == [(0,)]
    assert align([(0, 5)], [(0, 2, True), (2, 3.5, False)]) == [()]
    assert align([], one) == []
    assert align([(0, 1)], []) == [()]


def score(movie: Movie, alignment: Alignment) -> tuple[float, float]:
    """Video accuracy and text IoU of one movie (spec section 7), written out."""
    matched = [snippet for snippet in movie.snippets if snippet.matched]
    right, total = 0.0, 0.0
    clips_of: list[list[Clip]] = [[] for _ in movie.snippets]
    for clip, owners in zip(movie.clips, alignment, strict=True):
        total += clip.seconds
        if owners:
            right += overlap(clip, movie.snippets[owners[0]])
            clips_of[owners[0]].append(clip)
        else:
            right += clip.seconds - sum(overlap(clip, snippet) for snippet in matched)
    ious = []
    for snippet, clips in zip(movie.snippets, clips_of, strict=True):
        shared = sum(overlap(clip, snippet) for clip in clips)
        union = snippet.end - snippet.start + sum(clip.seconds for clip in clips) - shared
        ious.append(shared / union if snippet.matched else 0.0)
    return 100 * right / total, 100 * sum(ious) / len(ious)


@pytest.mark.parametrize("name", ["yms", "yms_msrvtt"])
def test_published_ceiling_of_the_segmentation(data_root: Path, name: str) -> None:
    data = read_yms(data_root / name)
    training = [data[id] for id in read_splits(data_root / name, data)["train"]]
    scores = [score(movie, oracle_alignment(movie)) for movie in training]
    accuracy, iou = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    assert accuracy == pytest.approx(98.2, abs=0.6)  # published
    assert iou == pytest.approx(93.6, abs=0.6)
    assert (accuracy, iou) == (pytest.approx(98.46, abs=0.005), pytest.approx(94.07, abs=0.005))  # these files
    assert all(oracle_alignment(movie) == every_pair(movie) for movie in training)
