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

from distributed.alone import SignOfLife, board_of
from distributed.storage import Mirror
from models.errors import UserError

STOP = "stop"
"""A file of this name in its folder ends a run after its step, with a checkpoint from which it can go on."""
SAVE = "save"
"""A file of this name asks for a checkpoint after the step; it is gone once that is there."""
LOOK_S = 1.0


class Asked(IntEnum):
    """In order of what counts more."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    GIVE_WAY = 3


def ask(run: Path, mirror: Mirror | None, name: str) -> None:
    """Puts a request where the run lives, from any node."""
    run.mkdir(parents=True, exist_ok=True)
    (run / name).touch()
    if mirror is not None:
        mirror.push(run / name)


def is_asked(run: Path, mirror: Mirror | None, name: str) -> bool:
    """Whether the request is there still."""
    return (run / name).exists() if mirror is None else mirror.read(name) is not None


def withdraw(run: Path, mirror: Mirror | None, name: str) -> None:
    """Removes a request."""
    (run / name).unlink(missing_ok=True)
    if mirror is not None:
        mirror.delete(name)


class Signals:
    """On every worker; rank 0's knows."""

    def __init__(
        self,
        run: Path,
        mirror: Mirror | None,
        device: torch.device,
        leaving: Callable[[], Collection[str]] = lambda: (),
        say: Callable[[str], object] = print,
    ) -> None:
        """`leaving`: what this run works on that is about to be taken away, each with when: a warning to save first."""
        self._run, self._mirror, self._device = run, mirror, device
        self._leaving, self._say = leaving, say
        self._rank = dist.get_rank()
        self._warned: set[str] = set()
        self._save_before_leaving = False
        self._there: set[str] = set()
        """What has been found in the run's place."""
        self._replaced = False
        self._closed = threading.Event()
        self._life = SignOfLife(board_of(run, mirror))
        self._threads: list[threading.Thread] = []
        if self._rank == 0:
            self._life.beat()
            watches = [(self._look, LOOK_S), (self._beat, self._life.board.beat_s)]
            if mirror is not None:  # a place that does not answer must not hold up the other two
                watches.append((self._ask_the_place, self._life.board.beat_s))
            self._threads = [threading.Thread(target=self._every, args=watch, daemon=True) for watch in watches]
            for thread in self._threads:
                thread.start()

    def _every(self, watch: Callable[[], None], seconds: float) -> None:
        while not self._closed.wait(seconds):
            watch()

    def _beat(self) -> None:
        self._replaced = self._replaced or not self._life.beat()

    def _look(self) -> None:
        for what in set(self._leaving()) - self._warned:
            self._warned.add(what)
            self._save_before_leaving = True
            self._say(f"warning: {what}: saving a checkpoint first")

    def _ask_the_place(self) -> None:
        for name in (STOP, SAVE):
            if self._mirror is not None and self._mirror.has(name):
                self._there.add(name)

    def _wanted(self) -> Asked:
        if self._replaced:
            return Asked.GIVE_WAY
        if STOP in self._there or (self._run / STOP).exists():
            return Asked.STOP
        save = self._save_before_leaving or SAVE in self._there or (self._run / SAVE).exists()
        return Asked.SAVE if save else Asked.NOTHING

    def asked(self) -> Asked:
        """What is asked for now; the same on every worker. Collective."""
        code = torch.tensor([self._wanted() if self._rank == 0 else 0], device=self._device)
        dist.broadcast(code, 0)
        return Asked(int(code))

    def saved(self, asked: Asked) -> None:
        """There is a checkpoint now."""
        self._save_before_leaving = False
        if self._rank == 0 and asked == Asked.SAVE:
            with suppress(OSError, UserError):  # it stays, and is heard again after the next step
                withdraw(self._run, self._mirror, SAVE)
                self._there.discard(SAVE)

    def close(self) -> None:
        """Ends the watch; the run may be started again."""
        self._closed.set()
        for thread in self._threads:
            thread.join()
        if self._rank == 0:
            self._life.end()
