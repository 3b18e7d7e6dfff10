"""Retrieval scores: by hand, against sorting, against the average over every order of the ties, and in blocks."""

from itertools import permutations
from random import Random
from statistics import fmean, median

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.metrics.retrieval import ranks, retrieval_scores

NAN = float("nan")


def case(rows: list[list[float]], gold: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows), torch.tensor(gold)


def test_by_hand() -> None:
    # Ranks 1, 3, 2; then two videos tied for the places 2 and 3; the last two texts share a video.
    scores, gold = case([[0.9, 0.1, 0.2], [0.5, 0.3, 0.4], [0.3, 0.2, 0.1], [0.9, 0.4, 0.4]], [0, 1, 1, 1])
    found = ranks(scores, gold)
    assert found.tolist() == [[0, 0], [2, 0], [1, 0], [1, 1]]
    assert retrieval_scores(found) == {"R@1": 25, "R@5": 100, "R@10": 100, "MedR": 2.25, "MeanR": 8.5 / 4}


def test_a_tie_across_the_limit_counts_in_part() -> None:
    # Four places, 4 to 7, of which 4 and 5 lie within the first five.
    scores, gold = case([[3.0, 3, 3, 1, 1, 1, 1, 0, 0, 0, 0, 0]], [3])
    assert retrieval_scores(ranks(scores, gold)) == {"R@1": 0, "R@5": 50, "R@10": 100, "MedR": 5.5, "MeanR": 5.5}


@pytest.mark.parametrize("videos", [1, 7, 40])
def test_the_same_score_for_everything_is_chance(videos: int) -> None:
    found = retrieval_scores(ranks(torch.zeros(videos, videos), torch.arange(videos)))
    for k in (1, 5, 10):
        assert found[f"R@{k}"] == pytest.approx(100 * min(1, k / videos))
    assert found["MedR"] == found["MeanR"] == (videos + 1) / 2


@st.composite
def tied_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Up to six texts with up to five videos, of scores with many ties."""
    videos = draw(st.integers(1, 5))
    row = st.tuples(st.lists(st.integers(0, 2), min_size=videos, max_size=videos), st.integers(0, videos - 1))
    rows = draw(st.lists(row, min_size=1, max_size=6))
    return torch.tensor([scores for scores, _ in rows]).float(), torch.tensor([gold for _, gold in rows])


def over_all_orders(scores: Tensor, gold: Tensor) -> dict[str, float]:
    """Sorts each text's videos by score, once for every order that equal ones could be listed in."""
    places = []
    for row, own in zip(scores.tolist(), gold.tolist(), strict=True):
        orders = permutations(range(len(row)))
        places.append([1 + sorted(order, key=lambda video: -row[video]).index(own) for order in orders])
    found = {f"R@{k}": 100 * fmean(fmean(rank <= k for rank in text) for text in places) for k in (1, 5, 10)}
    means = [fmean(text) for text in places]
    return {**found, "MedR": median(means), "MeanR": fmean(means)}


@given(tied_cases())
def test_agrees_with_the_average_over_all_orders_of_ties(tied: tuple[Tensor, Tensor]) -> None:
    assert retrieval_scores(ranks(*tied)) == pytest.approx(over_all_orders(*tied))


def test_agrees_with_sorting_where_nothing_ties() -> None:
    random = torch.Generator().manual_seed(3)
    scores, gold = torch.randn(200, 60, generator=random), torch.randint(60, (200,), generator=random)
    place = (scores.argsort(1, descending=True) == gold[:, None]).int().argmax(1) + 1
    found = retrieval_scores(ranks(scores, gold))
    assert found["MedR"] == median(place.tolist())
    assert found["MeanR"] == pytest.approx(place.double().mean().item())
    for k in (1, 5, 10):
        assert found[f"R@{k}"] == pytest.approx(100 * (place <= k).double().mean().item())


@given(tied_cases(), st.randoms(use_true_random=False))
def test_the_order_of_videos_and_of_texts_changes_nothing(tied: tuple[Tensor, Tensor], random: Random) -> None:
    scores, gold = tied
    texts, videos = (torch.tensor(_shuffled(size, random)) for size in scores.shape)
    column = videos.argsort()  # where each video has gone
    moved = ranks(scores[texts][:, videos], column[gold[texts]])
    assert torch.equal(moved, ranks(scores, gold)[texts])
    assert retrieval_scores(moved) == pytest.approx(retrieval_scores(ranks(scores, gold)))


def _shuffled(size: int, random: Random) -> list[int]:
    numbers = list(range(size))
    random.shuffle(numbers)
    return numbers


@given(tied_cases(), st.integers(1, 4))
def test_blocks_of_texts_put_together_are_the_whole(tied: tuple[Tensor, Tensor], workers: int) -> None:
    scores, gold = tied
    whole = torch.zeros(len(gold), 2, dtype=torch.long)
    for rank in range(workers):  # more of them than texts, too: then some have none
        whole[rank::workers] += ranks(scores[rank::workers], gold[rank::workers])
    assert torch.equal(whole, ranks(scores, gold))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_point(dtype: torch.dtype) -> None:
    scores, gold = case([[0.5, -float("inf"), 1.0], [float("inf"), float("inf"), 0.0]], [2, 0])
    assert ranks(scores.to(dtype), gold).tolist() == [[0, 0], [0, 1]]


def test_no_texts() -> None:
    none = ranks(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert none.shape == (0, 2)
    assert retrieval_scores(none) == {}


@pytest.mark.parametrize(
    ("rows", "gold", "message"),
    [
        ([[0.0, 1.0], [NAN, 1.0]], [0, 1], "text 1 and video 0 is NaN"),
        ([[0.0, 1.0]], [2], "text 0: video 2 is not one of the 2"),
        ([[0.0, 1.0]], [-1], "text 0: video -1 is not one of the 2"),
        ([[0.0, 1.0]], [0, 1], r"not \(1, 2\) and \(2,\)"),
    ],
)
def test_what_cannot_be_ranked_is_refused(rows: list[list[float]], gold: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks(*case(rows, gold))
