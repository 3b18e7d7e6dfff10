"""What may be asked of a run while it trains: to save, to stop, or to give way to another group of workers.

Rank 0 looks once a second, in a thread; all workers hear of it together, after the same step.
"""

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

import torch
import torch.distributed as dist

from distributed.alone import BEAT_S, SignOfLife

STOP = "stop"
"""A file of this name in its folder ends a run after its step, with a checkpoint from which it can go on."""
SAVE = "save"
"""A file of this name asks for a checkpoint after the step; it is gone once that is there."""


class Asked(IntEnum):
    """In order of what counts more."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    GIVE_WAY = 3


class Signals:
    """On every worker; rank 0's knows."""

    def __init__(
        self,
        run: Path,
        device: torch.device,
        leaving: Callable[[], Collection[str]] = lambda: (),
        say: Callable[[str], object] = print,
    ) -> None:
        """`leaving`: what this run works on that is about to be taken away, each with when: a warning to save first."""
        self._run, self._device, self._leaving, self._say = run, device, leaving, say
        self._rank = dist.get_rank()
        self._warned: set[str] = set()
        self._save_before_leaving = False
        self._replaced = False
        self._closed = threading.Event()
        self._life = SignOfLife(run)
        if self._rank == 0:
            self._life.beat()
            self._thread = threading.Thread(target=self._look, daemon=True, name="signals")
            self._thread.start()

    def _look(self) -> None:
        while not self._closed.wait(BEAT_S):
            self._replaced = self._replaced or not self._life.beat()
            for what in set(self._leaving()) - self._warned:
                self._warned.add(what)
                self._save_before_leaving = True
                self._say(f"warning: {what}: saving a checkpoint first")

    def _wanted(self) -> Asked:
        if self._replaced:
            return Asked.GIVE_WAY
        if (self._run / STOP).exists():
            return Asked.STOP
        return Asked.SAVE if self._save_before_leaving or (self._run / SAVE).exists() else Asked.NOTHING

    def asked(self) -> Asked:
        """What is asked for now; the same on every worker. Collective."""
        code = torch.tensor([self._wanted() if self._rank == 0 else 0], device=self._device)
        dist.broadcast(code, 0)
        return Asked(int(code))

    def saved(self) -> None:
        """There is a checkpoint now."""
        self._save_before_leaving = False
        if self._rank == 0:
            with suppress(OSError):
                (self._run / SAVE).unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the watch; the run may be started again."""
        if self._rank == 0:
            self._closed.set()
            self._thread.join()
            self._life.end()
