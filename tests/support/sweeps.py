"""A made-up sweep whose best learning rate is known, with a trial of every state."""

import math
import random
from typing import Any

from tuning.records import Mode, Record, State, Sweep

BASE = 0


def record(number: int, values: dict[str, Any], *course: float, state: State = "finished", reason: str = "") -> Record:
    """A trial whose metric after epoch 1, 2, ... is given; it took a minute an epoch."""
    epochs = tuple(enumerate(course, start=1))
    return Record(number, f"trial-{number}", values, state, reason, epochs, seconds=60.0 * len(course))


def sweep_of(*records: Record, mode: Mode = "max", **settings: Any) -> Sweep:
    return Sweep("a sweep", "accuracy", mode, tuple(records), **settings)


def realistic(trials: int = 24) -> Sweep:
    """The learning rate decides, best at 0.001; the batch size and the normalisation make no difference at all."""
    draw = random.Random(0)
    records = [record(BASE, {}, 0.5, 0.6, 0.65)]
    for number in range(1, trials + 1):
        eta = 10 ** draw.uniform(-5, -1)
        values = {
            "optimiser.eta": eta,
            "training.batch_size": draw.choice([16, 32, 64]),
            "model.normalisation": draw.choice(["batch", "layer"]),
        }
        top = 0.9 - 0.1 * abs(math.log10(eta) + 3)
        state: State = "stopped" if number % 7 == 0 else "finished"
        course = [top * share for share in ((0.7,) if state == "stopped" else (0.7, 0.9, 1.0))]
        if number == 5:
            state, course = "failed", []
        reason = "the loss is not finite" if state == "failed" else ""
        records.append(record(number, values, *course, state=state, reason=reason))
    return sweep_of(*records, logarithmic=frozenset({"optimiser.eta"}), baseline=BASE, note="Made up.")
