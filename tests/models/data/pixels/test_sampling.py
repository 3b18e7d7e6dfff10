"""Places of frames: one in each segment, in the middle at test."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.pixels.sampling import LAST, places

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


@pytest.mark.parametrize("chances", [[0.5], [0.5, 1.0], [-0.1, 0.5], [float("nan"), 0.5]])
def test_what_are_no_chances(chances: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 2 chances"):
        places(2, chances)


def test_no_frames_at_all() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        places(0)
