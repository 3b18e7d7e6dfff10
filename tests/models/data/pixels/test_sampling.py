"""Places of frames: one in each segment, in the middle at test; runs of neighbours."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.pixels.sampling import LAST, dense, places

CHANCES = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=12)


def test_the_middles_of_the_segments() -> None:
    assert places(1) == [0.5]
    assert places(4) == [0.125, 0.375, 0.625, 0.875]
    assert [math.floor(place * 8) for place in places(4)] == [1, 3, 5, 7]


@given(CHANCES)
def test_one_place_in_each_segment(chances: list[float]) -> None:
    found = places(len(chances), chances)
    for segment, (chance, place) in enumerate(zip(chances, found, strict=True)):
        assert place == pytest.approx((segment + chance) / len(chances))
        assert segment / len(chances) <= place < 1
    assert found == sorted(found)
    assert places(len(chances), np.array(chances)) == found


def test_the_last_chance_is_still_within() -> None:
    assert places(3, [0.0, LAST, LAST])[-1] == LAST
    assert dense(2, 1.0, LAST)[-1] < 1


@given(st.integers(1, 9), st.floats(0.01, 1), st.floats(0, 1, exclude_max=True))
def test_a_dense_run_is_evenly_spread_over_its_stretch(count: int, share: float, chance: float) -> None:
    found = dense(count, share, chance)
    start = (1 - share) * chance
    assert start <= found[0] <= found[-1] <= start + share
    assert np.diff(found) == pytest.approx(share / count, abs=1e-9)
    assert dense(count, 1.0, chance) == pytest.approx(places(count))


def test_a_dense_run_of_neighbouring_frames() -> None:
    """A stretch of 8 of 32 frames, every second of them."""
    assert [math.floor(place * 32) for place in dense(4, 8 / 32)] == [13, 15, 17, 19]


@pytest.mark.parametrize("chances", [[0.5], [0.5, 1.0], [-0.1, 0.5], [float("nan"), 0.5]])
def test_what_are_no_chances(chances: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 2 chances"):
        places(2, chances)


def test_what_is_no_run() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        places(0)
    for share, chance in ((0.0, 0.5), (1.5, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match="expected 0 < share"):
            dense(2, share, chance)
