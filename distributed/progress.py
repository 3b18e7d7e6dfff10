"""How far a run is: one line now and then, for rank 0 to print."""

import time
from collections import deque
from collections.abc import Callable

from distributed.say import say

_WINDOW = 6  # printed lines that the speed is measured over


class Progress:
    """Prints a line at the first step, at the last, and in between at most every `interval` seconds."""

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        samples_per_step: int,
        steps_per_epoch: int,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] = say,
    ) -> None:
        """`start_step` steps of `total_steps` are done; `samples_per_step` counts the global batch."""
        self._total_steps = total_steps
        self._samples_per_step = samples_per_step
        self._steps_per_epoch = steps_per_epoch
        self._interval = interval
        self._clock = clock
        self._write = write
        self._marks = deque([(clock(), start_step)], maxlen=_WINDOW)
        self._printed: float | None = None

    def update(self, step: int, loss: float, rate: float, best: tuple[str, float] | None = None) -> None:
        """`step` steps are done; `rate` is the learning rate and `best` a metric's name and best value so far."""
        now = self._clock()
        if self._printed is not None and now - self._printed < self._interval and step < self._total_steps:
            return
        epochs = -(-self._total_steps // self._steps_per_epoch)
        parts = [f"epoch {max(1, -(-step // self._steps_per_epoch))}/{epochs}", f"step {step}/{self._total_steps}"]
        parts += [f"loss {loss:.4f}", f"rate {rate:.1e}"]
        then, step_then = self._marks[0]
        if now > then and step > step_then:
            speed = (step - step_then) / (now - then)
            samples = speed * self._samples_per_step
            parts.append(f"{samples:.0f} samples/s" if samples >= 10 else f"{samples:.2g} samples/s")
            parts.append(f"ETA {duration((self._total_steps - step) / speed)}")
        if best is not None:
            parts.append(f"best {best[0]} {best[1]:.4g}")
        self._write("  ".join(parts))
        self._marks.append((now, step))
        self._printed = now


def duration(seconds: float) -> str:
    """Such as 3h05m, 2m10s or 7s."""
    whole = round(seconds)
    for long, short, names in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= long:
            return f"{whole // long}{names[0]}{whole % long // short:02d}{names[1]}"
    return f"{whole}s"


def short(value: object) -> str:
    """A figure with four digits; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
