"""Monotone dynamic programming against an enumeration of every monotone alignment."""

from itertools import product

import pytest
import torch
from torch import Tensor

from models.baselines.dynamic_programming import align_monotone, align_monotone_each, choose_unmatched
from models.data.movie import Alignment, Clip, Movie, Snippet
from models.neumatch.metrics import score


def _total(similarity: Tensor, unmatched: float, alignment: Alignment) -> float:
    return sum(float(similarity[i, texts[0]]) if texts else unmatched for i, texts in enumerate(alignment))


def _is_monotone(alignment: Alignment) -> bool:
    order = [texts[0] for texts in alignment if texts]
    return order == sorted(order)


def _best_total(similarity: Tensor, unmatched: float) -> float:
    """Tries all of them."""
    clips, texts = similarity.shape
    choices: list[tuple[int, ...]] = [(), *((j,) for j in range(texts))]
    every = (list(each) for each in product(choices, repeat=clips))
    return max(_total(similarity, unmatched, each) for each in every if _is_monotone(each))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("integers", [False, True])  # integers: many ties
def test_finds_the_best_of_all_alignments(seed: int, integers: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    clips, texts = (int(n) for n in torch.randint(1, 6, (2,), generator=generator))
    similarity = torch.randn(clips, texts, generator=generator, dtype=torch.float64)
    similarity = similarity.round() if integers else similarity
    for unmatched in (-1.0, 0.0, 0.5):
        found = align_monotone(similarity, unmatched)
        assert _is_monotone(found)
        assert _total(similarity, unmatched, found) == pytest.approx(_best_total(similarity, unmatched), abs=1e-9)


def test_extreme_unmatched_scores() -> None:
    similarity = torch.randn(6, 4)
    assert all(align_monotone(similarity, -torch.inf))
    assert align_monotone(similarity, torch.inf) == [()] * 6


def test_many_scores_at_once_are_one_at_a_time() -> None:
    similarity = torch.randn(40, 15, generator=torch.Generator().manual_seed(0))
    scores = [-1.0, 0.0, 0.3, 1.0]
    assert align_monotone_each(similarity, scores) == [align_monotone(similarity, u) for u in scores]


def test_empty_sides() -> None:
    assert align_monotone(torch.zeros(0, 3), 0.0) == []
    assert align_monotone(torch.zeros(3, 0), 0.0) == [(), (), ()]


@pytest.mark.parametrize("similarity", [torch.zeros(3), torch.tensor([[0.0, torch.nan]])])
def test_what_is_no_similarity_matrix_is_refused(similarity: Tensor) -> None:
    with pytest.raises(ValueError, match="without NaN"):
        align_monotone(similarity, 0.0)


def test_chooses_the_unmatched_score_with_the_best_figures() -> None:
    clips = (Clip("a", 0, 1), Clip("b", 1, 2), Clip("c", 2, 3))
    movie = Movie("m", clips, (Snippet("x", "one", 0, 1), Snippet("z", "two", 2, 3)))
    similarity = torch.tensor([[0.9, 0.0], [0.3, 0.2], [0.0, 0.8]])
    chosen, figures = choose_unmatched([movie], [similarity], [-1.0, 0.5, 2.0])
    assert chosen == 0.5
    assert figures == score([movie], [[(0,), (), (1,)]])
