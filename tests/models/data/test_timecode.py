"""Time codes and interval ids."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.timecode import Interval, check_movie_id, format_interval, format_timecode, parse_interval
from models.data.timecode import parse_timecode as parse
from models.errors import UserError

MILLISECONDS = st.integers(0, 100 * 3_600_000 - 1)


def test_values() -> None:
    assert parse("00.00.07.640") == 7.64
    assert parse("01.02.03.004") == 3723.004
    assert format_timecode(3723.004) == "01.02.03.004"
    assert format_timecode(59.9996) == "00.01.00.000"


@given(MILLISECONDS)
def test_round_trip(milliseconds: int) -> None:
    text = format_timecode(milliseconds / 1000)
    assert parse(text) == milliseconds / 1000
    assert format_timecode(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.00.00.000",
        "00.60.00.000",
        "00.00.60.000",
        "00.00.00.00",
        "00:00:00.000",
        "٠٠.00.00.000",
        "00.00.00.000\n",
    ],
)
def test_malformed_times(text: str) -> None:
    with pytest.raises(UserError, match=r"malformed time .*; expected HH\.MM\.SS\.mmm"):
        parse(text)


@pytest.mark.parametrize("seconds", [-0.001, 360_000.0, 359_999.9999, math.nan, math.inf])
def test_times_that_cannot_be_written(seconds: float) -> None:
    with pytest.raises(UserError, match="cannot be written as"):
        format_timecode(seconds)


def test_movie_may_contain_underscores_and_look_like_a_time() -> None:
    assert parse_interval("0001_American_Beauty_00.00.51.926-00.00.54.129") == Interval(
        "0001_American_Beauty", 51.926, 54.129
    )
    nested = "a_00.00.01.000-00.00.02.000_00.00.03.000-00.00.04.000"
    assert parse_interval(nested) == Interval("a_00.00.01.000-00.00.02.000", 3.0, 4.0)


@given(st.tuples(MILLISECONDS, MILLISECONDS).filter(lambda pair: pair[0] < pair[1]))
def test_interval_round_trip(pair: tuple[int, int]) -> None:
    interval = Interval("x_y", pair[0] / 1000, pair[1] / 1000)
    assert parse_interval(format_interval(*interval)) == interval


@pytest.mark.parametrize(
    "text", ["", "0001", "_00.00.00.000-00.00.01.000", "0001_00.00.00.000", "m_00.00.00.000-00.00.61.000"]
)
def test_malformed_intervals(text: str) -> None:
    with pytest.raises(UserError, match=r"malformed interval .*; expected MOVIE_START-END"):
        parse_interval(text)


@pytest.mark.parametrize("end", ["00.00.05.000", "00.00.04.999"])
def test_intervals_must_end_after_their_start(end: str) -> None:
    with pytest.raises(UserError, match="ends at or before its start"):
        parse_interval(f"m_00.00.05.000-{end}")


@pytest.mark.parametrize("movie", ["", "..", ".hidden", "#note", "a/b", "a\\b", "a b", "a\tb", "a\x00b", "a\u2028b"])
def test_movie_names_that_are_unsafe(movie: str) -> None:
    with pytest.raises(UserError, match="bad movie name"):
        check_movie_id(movie)
