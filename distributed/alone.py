"""One run, one group of workers: a sign of life in the run's folder keeps two from writing into it at once.

Rank 0 writes a line into the file `alive` once a second. Whoever wants to start the run looks whether the line changes;
a group that finds another's line there has been replaced (it was cut off, and the run started again), and ends.
"""

import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

from models.errors import UserError

ALIVE = "alive"
BEAT_S = 1.0
SILENCE_S = 4 * BEAT_S
"""A line that has not changed for so long was left by a group that is dead."""
PATIENCE_S = 20.0
"""What a group whose driver was killed may take to die."""


class SignOfLife:
    """Rank 0's line in the run's folder."""

    def __init__(self, run: Path) -> None:
        self._file, self._beats = run / ALIVE, 0
        self._who = f"{secrets.token_hex(8)} process {os.getpid()} on {socket.gethostname()}"

    def beat(self) -> bool:
        """Writes the next line; False when another group's is there, and so the run is theirs."""
        with suppress(OSError):  # a full disk or a lost mount, of which the log tells: not a reason to end
            there = _read(self._file)
            if self._beats and there and not there.startswith(f"{self._who} "):
                return False
            self._beats += 1
            draft = self._file.with_name(f".{ALIVE}.{os.getpid()}")
            draft.write_text(f"{self._who} {self._beats}", encoding="utf-8")
            draft.replace(self._file)  # nobody reads half a line
        return True

    def end(self) -> None:
        """The run may be started again at once."""
        with suppress(OSError):
            if _read(self._file).startswith(f"{self._who} "):
                self._file.unlink()


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def check_alone(run: Path) -> None:
    """Returns once nobody trains the run any more.

    Raises:
        UserError: somebody does, and goes on with it.
    """
    file, start = run / ALIVE, time.monotonic()
    last, since = _read(file), start
    while last and time.monotonic() - since < SILENCE_S:
        if time.monotonic() - start > PATIENCE_S:
            who = last.partition(" ")[2].rpartition(" ")[0]
            raise UserError(
                f"{run}: is being trained already, by {who}; wait for it, or end it with a checkpoint: touch {run}/stop"
            )
        time.sleep(BEAT_S / 4)
        now = _read(file)
        if now != last:
            last, since = now, time.monotonic()
