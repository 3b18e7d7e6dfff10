"""Who keeps the others waiting: every worker says once a second where it is, so that a hang has a name.

A collective that one worker never joins blocks all others until its timeout, and then says only that it timed out.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from distributed.collectives import everyone

BEAT_S = 1.0
SILENCE_S = 5.0
"""Whoever has not said anything for so long is silent; a busy machine may miss a beat."""
ANSWER_S = 10.0
"""How long the store, which lives in rank 0's process, may take to answer."""
ROOT = str(Path(__file__).resolve().parents[1]) + os.sep
_COLLECTIVES = (f"torch{os.sep}distributed{os.sep}", f"deepspeed{os.sep}comm{os.sep}")


def place_of(thread: int) -> tuple[str, bool]:
    """Which line of the project a thread is at, and whether it waits in a collective there."""
    frame, waiting = sys._current_frames().get(thread), False
    while frame is not None:
        file = frame.f_code.co_filename
        waiting = waiting or any(part in file for part in _COLLECTIVES)
        if file.startswith(ROOT) and "site-packages" not in file:
            return f"{file.removeprefix(ROOT)}:{frame.f_lineno} {frame.f_code.co_name}", waiting
        frame = frame.f_back
    return "", waiting


def in_collective(error: BaseException) -> bool:
    """Whether an error came out of a collective."""
    trace = error.__traceback__
    while trace is not None:
        if any(part in trace.tb_frame.f_code.co_filename for part in _COLLECTIVES):
            return True
        trace = trace.tb_next
    return False


class Liveness:
    """This worker's sign of life, and what the others' say. Collective to make, in the thread that is to be watched."""

    def __init__(self, node: str, quiet_s: float, say: Callable[[str], object]) -> None:
        """`node`: this worker's, as people know it. After `quiet_s` in one collective, `say` is told who is late."""
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self.step = 0
        self._thread, self._quiet_s, self._say = threading.get_ident(), quiet_s, say
        self._names = everyone(f"node {node}, process {os.getpid()}")
        self._store = self._open()
        self._closed = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True, name="liveness")
        self._beats.start()

    def _open(self) -> TCPStore:
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        timeout = timedelta(seconds=ANSWER_S)
        store = TCPStore(host, 0, None, True, timeout, wait_for_workers=False) if self.rank == 0 else None
        port = everyone(store.port if store is not None else 0)[0]
        return store or TCPStore(host, port, None, False, timeout, wait_for_workers=False)

    def _beat(self) -> None:
        beat, since, told = 0, time.monotonic(), False
        seen: tuple[int, str] = (-1, "")
        while not self._closed.wait(BEAT_S):
            place, waiting = place_of(self._thread)
            beat += 1
            sign = {"beat": beat, "step": self.step, "at": place, "waiting": waiting}
            try:
                self._store.set(str(self.rank), json.dumps(sign))
            except (RuntimeError, OSError):  # rank 0 is gone: whoever asks finds that out
                return
            if (self.step, place) != seen or not waiting:
                seen, since, told = (self.step, place), time.monotonic(), False
            elif not told and time.monotonic() - since > self._quiet_s:
                told = True
                late = self.late()
                if self.rank == (1 if late.startswith("rank 0 ") else 0):
                    self._say(f"no progress for {self._quiet_s:g} s: {late}")

    def late(self) -> str:
        """Whom the others wait for, in words. Takes a few seconds."""
        before = self._read()
        time.sleep(SILENCE_S)
        now = self._read()
        if before is None or now is None:
            return f"{self._who(0)} does not answer"
        silent = [r for r in range(self.workers) if r != self.rank and now[r].get("beat") == before[r].get("beat")]
        if silent:
            return "; ".join(f"{self._who(r)} has not been heard of since step {now[r].get('step', 0)}" for r in silent)
        busy = [r for r in range(self.workers) if r != self.rank and not now[r]["waiting"]]
        if busy:
            return "; ".join(f"{self._who(r)} is at {now[r]['at'] or 'work'} in step {now[r]['step']}" for r in busy)
        nodes = ", ".join(self._who(r) for r in range(self.workers))
        return f"all workers wait for each other in step {self.step}: is the network between them cut? ({nodes})"

    def _who(self, rank: int) -> str:
        return f"rank {rank} ({self._names[rank]})"

    def _read(self) -> list[dict[str, Any]] | None:
        """Everybody's newest sign; None when the store does not answer."""
        found: list[dict[str, Any]] = []

        def read() -> None:
            signs = []
            for rank in range(self.workers):
                there = self._store.check([str(rank)])
                signs.append(json.loads(self._store.get(str(rank))) if there else {})
            found.extend(signs)

        reader = threading.Thread(target=_quietly, args=(read,), daemon=True)
        reader.start()
        reader.join(ANSWER_S)
        return found or None

    def close(self) -> None:
        """No more signs of life."""
        self._closed.set()
        self._beats.join(ANSWER_S)


def _quietly(read: Callable[[], None]) -> None:
    try:
        read()
    except (RuntimeError, OSError):  # rank 0 is gone: nothing was found
        return
