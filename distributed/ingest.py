"""Reads the batches of coming steps while the network trains: in a thread, or in processes through Ray Data.

Ray Data's executor makes batches only when there is room for them, so a slow network stops the decoding, and memory
holds a few whatever a run's length. Steps come in their order and hold what they would hold without any of this.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from models.data.ahead import ahead
from models.errors import UserError

Arrays = dict[str, NDArray[Any]]
Read = Callable[[Sequence[int], int], Arrays]
"""Sample numbers and a draw -> what a task's `loaded` makes a batch of; can be pickled."""
Plan = Callable[[int], tuple[list[int], int]]
"""A step -> this worker's samples and the draw; can be pickled."""

AHEAD = 4
"""Steps that are read before they are asked for; Ray Data has some blocks more in the object store."""
STEPS_A_BLOCK = 4
"""What Ray Data hands on at once. A block costs its executor 20 ms, large or small; the first one is waited for."""
MISTAKE = "mistake"
"""In place of a batch: what a user has to know."""


class Ingest:
    """What is read for the steps from `start` to before `stop`, in their order."""

    def __init__(self, read: Read, plan: Plan, start: int, stop: int, readers: int) -> None:
        """`readers`: processes that read, at most, each on one core; 0: a thread of this one."""
        self._read, self._plan, self._next, self._stop = read, plan, start, stop
        self._readers = readers
        self._values: Generator[Arrays] | None = None

    def at(self, step: int) -> Arrays:
        """What was read for a step. The next one in order has been read ahead; any other is read now."""
        if step != self._next or step >= self._stop:
            return self._read(*self._plan(step))
        if self._values is None:  # not before it is needed: a run may have nothing left to do
            steps = range(self._next, self._stop)
            self._values = ahead(self._through_ray(steps) if self._readers else self._here(steps), AHEAD)
        self._next += 1
        return next(self._values)

    def close(self) -> None:
        """Ends what reads ahead."""
        if self._values is not None:
            self._values.close()
        self._values, self._stop = None, self._next

    def _here(self, steps: range) -> Generator[Arrays]:
        for step in steps:
            yield self._read(*self._plan(step))

    def _through_ray(self, steps: range) -> Generator[Arrays]:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.target_max_block_size = None  # what a task makes is one block
        rows = ray.data.range(len(steps), override_num_blocks=-(-len(steps) // STEPS_A_BLOCK)).map_batches(
            _Reader,
            fn_constructor_args=(self._read, self._plan, steps.start),
            batch_size=STEPS_A_BLOCK,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._readers, max_tasks_in_flight_per_actor=2),
        )
        for batch in rows.iter_batches(batch_size=1, prefetch_batches=1, batch_format="pyarrow"):
            arrays = load(batch["batch"][0].as_py())
            if MISTAKE in arrays:
                raise UserError(arrays[MISTAKE].tobytes().decode())
            yield arrays


class _Reader:
    """What an actor of Ray Data does: steps -> their batches, one row and one value of bytes each."""

    def __init__(self, read: Read, plan: Plan, start: int) -> None:
        self.read, self.plan, self.start = read, plan, start

    def __call__(self, rows: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        return {"batch": [save(self._arrays(self.start + int(number))) for number in rows["id"]]}

    def _arrays(self, step: int) -> Arrays:
        try:
            return self.read(*self.plan(step))
        except UserError as error:  # as a value: Ray would wrap it, and try again
            return {MISTAKE: np.frombuffer(str(error).encode(), np.uint8)}
