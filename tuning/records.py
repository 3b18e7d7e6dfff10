"""What is known of a trial, for tables, plots and pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["max", "min"]
State = Literal["running", "finished", "stopped", "failed"]


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
        """The best of its course."""
        numbers = [value for _, value in self.course]
        return (max(numbers) if mode == "max" else min(numbers)) if numbers else None


def best_of(records: "list[Record]", mode: Mode) -> Record | None:
    """The trial with the best value, the earliest of equals; failed ones do not count."""
    scored = [(r, value) for r in records if r.state != "failed" and (value := r.best(mode)) is not None]
    if not scored:
        return None
    sign = 1 if mode == "max" else -1
    return max(scored, key=lambda pair: (sign * pair[1], -pair[0].number))[0]
