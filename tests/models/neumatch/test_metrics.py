"""Video accuracy and text IoU against a count over a fine time grid, and on cases worked out by hand."""

import random
from pathlib import Path

import pytest

from models.data.movie import Alignment, Clip, Movie, Snippet
from models.data.yms import read_splits, read_yms
from models.neumatch.metrics import Score, score, snippet_ious, text_iou, video_accuracy
from models.neumatch.oracle import oracle_alignment

MOVIE = Movie(
    "m",
    (Clip("a", 0, 4), Clip("b", 4, 6), Clip("c", 6, 10)),
    (Snippet("x", "one", 1, 5), Snippet("y", "two", 5, 6, matched=False), Snippet("z", "three", 6, 8)),
)


def test_by_hand() -> None:
    # a: 3 of 4 s in x; b alone: 1 of 2 s uncovered (y has no video); c: 2 of 4 s in z.
    alignment: Alignment = [(0,), (), (2,)]
    assert video_accuracy(MOVIE, alignment) == pytest.approx(100 * (3 + 1 + 2) / 10)
    assert snippet_ious(MOVIE, alignment) == pytest.approx([100 * 3 / 5, 0, 100 * 2 / 4])
    assert text_iou(MOVIE, alignment) == pytest.approx((60 + 0 + 50) / 3)


def test_a_clip_of_several_texts_counts_their_union() -> None:
    assert video_accuracy(MOVIE, [(0, 2), (0, 1), (0, 2)]) == pytest.approx(100 * (3 + 1 + 2) / 10)


def test_a_text_without_video_in_the_gold_scores_nothing() -> None:
    assert video_accuracy(MOVIE, [(1,), (1,), (1,)]) == 0
    assert text_iou(MOVIE, [(1,), (1,), (1,)]) == 0


def _random(rng: random.Random) -> tuple[Movie, Alignment]:
    """A movie with times in tenths of a second, gaps included, and any alignment, several texts a clip included."""

    def cuts(most: int) -> list[tuple[float, float]]:
        times = sorted(rng.sample(range(0, 100), 2 * rng.randint(1, most)))
        return [(a / 10, b / 10) for a, b in zip(times[::2], times[1::2], strict=True)]

    clips = tuple(Clip(str(i), *span) for i, span in enumerate(cuts(8)))
    texts = tuple(Snippet(str(j), "t", *span, matched=rng.random() < 0.8) for j, span in enumerate(cuts(6)))
    chosen = [tuple(sorted(rng.sample(range(len(texts)), min(len(texts), rng.choice([0, 1, 1, 2]))))) for _ in clips]
    return Movie("m", clips, texts), chosen


def _on_a_grid(movie: Movie, alignment: Alignment) -> Score:
    """Counts cells of 0.1 s by their midpoints: exact, because every time is a multiple of 0.1 s."""
    grid = [k / 10 + 0.05 for k in range(100)]
    gold = [{t for t in grid if s.matched and s.start < t < s.end} for s in movie.snippets]
    covered = set().union(*gold)
    spans = [{t for t in grid if c.start < t < c.end} for c in movie.clips]
    right = 0
    for span, texts in zip(spans, alignment, strict=True):
        right += len(span & set().union(*(gold[j] for j in texts))) if texts else len(span - covered)
    ious = []
    for j, interval in enumerate(gold):
        predicted = set().union(*(s for s, texts in zip(spans, alignment, strict=True) if j in texts))
        ious.append(len(predicted & interval) / len(predicted | interval) if interval else 0.0)
    return Score(100 * right / sum(map(len, spans)), 100 * sum(ious) / len(ious))


@pytest.mark.parametrize("seed", range(200))
def test_agrees_with_a_fine_time_grid(seed: int) -> None:
    movie, alignment = _random(random.Random(seed))
    expected = _on_a_grid(movie, alignment)
    assert video_accuracy(movie, alignment) == pytest.approx(expected.video_accuracy, abs=1e-9)
    assert text_iou(movie, alignment) == pytest.approx(expected.text_iou, abs=1e-9)


def test_score_is_the_mean_over_movies() -> None:
    perfect = oracle_alignment(MOVIE)
    empty: Alignment = [(), (), ()]
    both = score([MOVIE, MOVIE], [perfect, empty])
    assert both.video_accuracy == pytest.approx((video_accuracy(MOVIE, perfect) + video_accuracy(MOVIE, empty)) / 2)
    assert both.text_iou == pytest.approx(text_iou(MOVIE, perfect) / 2)
    assert both.mean == pytest.approx((both.video_accuracy + both.text_iou) / 2)


@pytest.mark.parametrize("alignment", [[()], [(), (), (), ()], [(3,), (), ()], [(-1,), (), ()]])
def test_an_alignment_that_does_not_fit_is_refused(alignment: Alignment) -> None:
    with pytest.raises(ValueError, match="movie m"):
        video_accuracy(MOVIE, alignment)
    with pytest.raises(ValueError, match="movie m"):
        text_iou(MOVIE, alignment)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="one alignment a movie"):
        score([], [])
    with pytest.raises(ValueError, match="0 snippets"):
        text_iou(Movie("n", MOVIE.clips, ()), [(), (), ()])


def test_the_published_ceiling(data_root: Path) -> None:
    movies = read_yms(data_root / "yms")
    train = [movies[id] for id in read_splits(data_root / "yms", movies)["train"]]
    ceiling = score(train, [oracle_alignment(movie) for movie in train])
    assert ceiling.video_accuracy == pytest.approx(98.2, abs=0.6)
    assert ceiling.text_iou == pytest.approx(93.6, abs=0.6)
