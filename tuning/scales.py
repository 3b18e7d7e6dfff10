"""Where a sweep's values lie on the axes of its pictures, and how they are written there."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from matplotlib.ticker import MaxNLocator

MOST_CHOICES = 6
"""Numbers that take more values than this are no choice from a list."""
MOST_TICKS = 5
LABEL_LENGTH = 22
"""Characters of one line of an axis's label."""


@dataclass(frozen=True)
class Scale:
    """The axis of one key."""

    key: str
    kind: Literal["linear", "logarithmic", "choice", "categories"]
    places: Mapping[int, float]
    """From 0 to 1, by trial number."""
    ticks: tuple[tuple[float, str], ...]
    unset: tuple[int, ...] = ()
    """Trials that do not have the key."""
    left_out: tuple[int, ...] = ()
    """Trials whose value is a number that is not finite."""

    @property
    def constant(self) -> bool:
        """Whether all trials that have the key have the same value."""
        return len(set(self.places.values())) < 2


def scale_of(key: str, values: Mapping[int, Any], trials: Iterable[int], logarithmic: bool) -> Scale:
    """The axis of a key whose `values` are by trial number; of `trials`, some may not have it."""
    unset = tuple(n for n in trials if n not in values)
    left_out = tuple(n for n, value in values.items() if _is_number(value) and not math.isfinite(value))
    kept = {n: value for n, value in values.items() if n not in left_out}
    if not all(_is_number(value) for value in kept.values()):
        # Numbers before words, as in [1, 2, off].
        order = {text_of(v): (not _is_number(v), v if _is_number(v) else 0, text_of(v)) for v in kept.values()}
        texts = sorted(order, key=lambda text: order[text])
        even = dict(zip(texts, _even(len(texts)), strict=True))
        places = {n: even[text_of(value)] for n, value in kept.items()}
        return Scale(key, "categories", places, tuple((place, text) for text, place in even.items()), unset, left_out)
    numbers = {n: float(value) for n, value in kept.items()}
    distinct = sorted(set(numbers.values()))
    # Numbers that come again and again were chosen from a list; 16, 32, 64, 128 are legible only at even places.
    if len(distinct) <= MOST_CHOICES and len(numbers) >= 2 * len(distinct) and not logarithmic:
        chosen = dict(zip(distinct, _even(len(distinct)), strict=True))
        places = {n: chosen[value] for n, value in numbers.items()}
        return Scale(key, "choice", places, tuple((p, text_of(v)) for v, p in chosen.items()), unset, left_out)
    return replace(measured(key, numbers, logarithmic), unset=unset, left_out=left_out)


def measured(key: str, numbers: Mapping[int, float], logarithmic: bool) -> Scale:
    """The axis of finite numbers by trial number."""
    low, high = min(numbers.values(), default=0.0), max(numbers.values(), default=0.0)
    if low == high:
        return Scale(key, "linear", dict.fromkeys(numbers, 0.5), ((0.5, text_of(low)),) if numbers else ())
    logarithmic = logarithmic and low > 0

    def place(value: float) -> float:
        if logarithmic:
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return value / (high - low) - low / (high - low)

    marks = _logarithmic_ticks(low, high) if logarithmic else _linear_ticks(low, high)
    return Scale(
        key,
        "logarithmic" if logarithmic else "linear",
        {n: place(value) for n, value in numbers.items()},
        tuple((place(mark), text_of(mark)) for mark in marks),
    )


def _even(count: int) -> list[float]:
    return [0.5] if count == 1 else [i / (count - 1) for i in range(count)]


def _linear_ticks(low: float, high: float) -> list[float]:
    locator = MaxNLocator(MOST_TICKS - 1, steps=[1, 2, 5, 10])
    marks = [float(mark) for mark in locator.tick_values(low, high) if low <= mark <= high]
    return marks if len(marks) > 1 else [low, high]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Of the marks 1; 1, 3; and 1, 2, 5 in each decade the densest that leave room; the ends where none lie between."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        marks = [mark for decade in decades for d in digits if low <= (mark := float(f"{d}e{decade}")) <= high]
        if len(marks) <= MOST_TICKS:
            return marks if len(marks) > 1 else [low, high]
    return marks[:: math.ceil(len(marks) / MOST_TICKS)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def text_of(value: Any) -> str:
    """A value as recipes write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(text_of(part) for part in value)}]"
    return str(value)


def shortened(text: str, length: int) -> str:
    """One line of at most `length` characters, without the middle where it is longer: both ends tell names apart."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    end = (length - 1) // 2
    return f"{line[: length - 1 - end]}…{line[len(line) - end :]}"


def label_of(key: str) -> str:
    """A key in one line or, broken at its last dot, in two."""
    head, dot, tail = key.rpartition(".")
    if len(key) <= LABEL_LENGTH or not dot:
        return shortened(key, LABEL_LENGTH)
    return f"{shortened(head + dot, LABEL_LENGTH)}\n{shortened(tail, LABEL_LENGTH)}"


def fitted(scale: Scale, room: int) -> list[tuple[float, str]]:
    """The ticks of an axis as wide as `room` characters: words are shortened to fit, and if need be some left out."""
    ticks = scale.ticks
    if scale.kind in {"linear", "logarithmic"}:  # a number without its middle is another number
        longest = max((len(text) for _, text in ticks), default=0)
        return list(ticks[:: math.ceil(len(ticks) * (longest + 1) / room) or 1])
    longest = max((len(text) for _, text in ticks), default=0)
    ticks = ticks[:: math.ceil(len(ticks) * min(longest + 1, 5) / room) or 1]
    gap = math.floor((ticks[1][0] - ticks[0][0]) * room) - 1 if len(ticks) > 1 else room
    return [(place, shortened(text, max(3, min(gap, room // 2)))) for place, text in ticks]
