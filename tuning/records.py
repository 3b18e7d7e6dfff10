"""What is known of a trial, for tables, plots and pages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["max", "min"]
State = Literal["running", "finished", "stopped", "failed"]


def sign(mode: Mode) -> int:
    """What a metric is multiplied with so that more is better."""
    return 1 if mode == "max" else -1


@dataclass(frozen=True)
class Record:
    """One trial of a sweep."""

    number: int
    """From 0."""
    name: str
    """Of its run."""
    values: Mapping[str, Any]
    """What it has in place of the base recipe's, by dotted key; empty for the base recipe itself."""
    state: State
    reason: str = ""
    """Why it failed or was stopped."""
    course: tuple[tuple[int, float], ...] = ()
    """The metric by epoch, in order."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """All that was measured at its best evaluation."""
    seconds: float = 0.0
    """From its beginning to its newest result, start of workers included, over all attempts."""
    training_seconds: float = 0.0
    """Of these, those in the training loop, evaluations included."""
    begun: float | None = None
    """Seconds since 1970."""
    run: Path = Path()
    """Its run's folder."""

    def best(self, mode: Mode) -> float | None:
        """The best of its course; what is not finite does not count."""
        numbers = [value for _, value in self.course if math.isfinite(value)]
        return (max(numbers) if mode == "max" else min(numbers)) if numbers else None


def best_of(records: Sequence[Record], mode: Mode) -> Record | None:
    """The trial with the best value, the earliest of equals; failed ones do not count."""
    scored = [(r, value) for r in records if r.state != "failed" and (value := r.best(mode)) is not None]
    if not scored:
        return None
    return max(scored, key=lambda pair: (sign(mode) * pair[1], -pair[0].number))[0]


@dataclass(frozen=True)
class Sweep:
    """The trials of one search, and what is needed to show them."""

    name: str
    metric: str
    mode: Mode
    records: tuple[Record, ...]
    logarithmic: frozenset[str] = frozenset()
    """Keys sampled on a logarithmic scale."""
    baseline: int | None = None
    """The number of the trial that is the base recipe itself."""
    note: str = ""

    @property
    def base(self) -> Record | None:
        """The trial of the base recipe itself."""
        return next((r for r in self.records if r.number == self.baseline), None)

    @property
    def best(self) -> Record | None:
        """The best trial, the base recipe's included."""
        return best_of(self.records, self.mode)

    @property
    def scored(self) -> tuple[Record, ...]:
        """Trials that have a value and did not fail, without the base recipe's, by number."""
        scored = (r for r in self.records if r.state != "failed" and r.best(self.mode) is not None)
        return tuple(sorted((r for r in scored if r.number != self.baseline), key=lambda r: r.number))

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that a trial varies, in order of first appearance."""
        return tuple(dict.fromkeys(key for r in self.records for key in r.values))
