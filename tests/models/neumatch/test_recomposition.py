"""Units of gold actions: together they are the movie, and anything put together of them is a legal sample."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.neumatch.actions import YMS_ACTIONS, play
from models.neumatch.recomposition import recompose, units_of
from models.neumatch.samples import Sample
from tests.reference.batches import ALL_ACTIONS, legal_actions


@given(st.integers(0, 10**6), st.integers(0, 8), st.integers(0, 6))
def test_units_in_their_order_are_the_movie(seed: int, clips: int, snippets: int) -> None:
    actions = legal_actions(clips, snippets, ALL_ACTIONS, random.Random(seed))
    sample = Sample(torch.arange(float(clips))[:, None], torch.arange(float(snippets))[:, None], actions)
    units = units_of(sample, ALL_ACTIONS)
    assert [a for unit in units for a in unit.actions] == list(sample.actions)
    used = play(sample.actions, clips, snippets, ALL_ACTIONS)
    for unit in units:
        play(unit.actions, len(unit.video), len(unit.text), ALL_ACTIONS)  # raises where one needs what it has not
    assert [v for unit in units for v in unit.video[:, 0].tolist()] == list(range(clips))
    alignment, first = [], 0
    for unit in units:
        part = play(unit.actions, len(unit.video), len(unit.text), ALL_ACTIONS)
        alignment += [tuple(first + text for text in texts) for texts in part]
        first += len(unit.text)
    assert alignment == used


def movie() -> Sample:
    """Three snippets: two clips, none, one clip; an unmatched clip in between and one at the end."""
    actions = (2, 2, 1, 0, 1, 2, 1, 0)
    return Sample(torch.arange(5.0)[:, None], torch.arange(3.0)[:, None], actions)


def test_units_of_a_movie() -> None:
    units = units_of(movie(), YMS_ACTIONS)
    assert [(u.video[:, 0].tolist(), u.text[:, 0].tolist(), u.actions) for u in units] == [
        ([0, 1], [0], (2, 2, 1)),
        ([2], [1], (0, 1)),
        ([3], [2], (2, 1)),
        ([4], [], (0,)),
    ]


def test_recomposed_samples_have_known_pairs_in_new_orders() -> None:
    units = units_of(movie(), YMS_ACTIONS)
    pairs = {(0, 0), (1, 0), (3, 2)}
    orders = set()
    for seed in range(30):
        sample = recompose(units, 12, np.random.default_rng(seed))
        assert 1 <= len(sample.actions) <= 12
        alignment = play(sample.actions, len(sample.video), len(sample.text))
        found = {(int(sample.video[i, 0]), int(sample.text[j, 0])) for i, texts in enumerate(alignment) for j in texts}
        assert found <= pairs
        orders.add(tuple(sample.text[:, 0].tolist()))
    assert len(orders) > 10
    assert len(recompose(units[:1], 1, np.random.default_rng(0)).actions) == 3  # one unit at least
