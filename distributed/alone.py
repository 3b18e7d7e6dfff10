"""One run, one group of workers: a sign of life where the run lives keeps two from writing there at once.

Rank 0 writes a line into the file `alive` every second or so. Whoever wants to start the run looks whether the line
changes; a group that finds another's line there has been replaced (it was cut off, and the run started anew), and ends.
"""

import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

from distributed.storage import Mirror
from models.errors import UserError

ALIVE = "alive"
BEATS_OF_SILENCE = 4
"""A line that has not changed for so many beats was left by a group that is dead."""
PATIENCE_S = 20.0
"""What a group whose driver was killed may take to die."""


class Board:
    """The file in a run's folder."""

    beat_s = 1.0

    def __init__(self, run: Path) -> None:
        self._run, self._file = run, run / ALIVE

    def read(self) -> str:
        """The line that is there; empty without one."""
        return self._file.read_text(encoding="utf-8") if self._file.exists() else ""

    def write(self, line: str) -> None:
        """Nobody reads half a line."""
        draft = self._file.with_name(f".{ALIVE}.{os.getpid()}")
        draft.write_text(line, encoding="utf-8")
        draft.replace(self._file)

    def clear(self) -> None:
        """Removes the line."""
        self._file.unlink(missing_ok=True)


class FarBoard(Board):
    """The file in a run's place, which may take its time to answer."""

    beat_s = 5.0

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(mirror.folder)
        self._mirror = mirror

    def read(self) -> str:
        return (self._mirror.read(ALIVE) or b"").decode("utf-8", errors="replace")

    def write(self, line: str) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        super().write(line)
        self._mirror.push(self._file)

    def clear(self) -> None:
        super().clear()
        self._mirror.delete(ALIVE)


def board_of(run: Path, mirror: Mirror | None) -> Board:
    """Where the run's sign of life is."""
    return Board(run) if mirror is None else FarBoard(mirror)


class SignOfLife:
    """Rank 0's line."""

    def __init__(self, board: Board) -> None:
        self.board, self._beats = board, 0
        self._who = f"{secrets.token_hex(8)} process {os.getpid()} on {socket.gethostname()}"

    def beat(self) -> bool:
        """Writes the next line; False when another group's is there, and so the run is theirs."""
        with suppress(OSError, UserError):  # a full disk or a lost mount, of which the log tells: no reason to end
            there = self.board.read() if self._beats else ""
            if there and not there.startswith(f"{self._who} "):
                return False
            self._beats += 1
            self.board.write(f"{self._who} {self._beats}")
        return True

    def end(self) -> None:
        """The run may be started again at once."""
        with suppress(OSError, UserError):
            if self.board.read().startswith(f"{self._who} "):
                self.board.clear()


def check_alone(board: Board, where: str) -> None:
    """Returns once nobody trains the run any more. `where` it lives, for the message.

    Raises:
        UserError: somebody does, and goes on with it.
    """
    start = time.monotonic()
    last, since = board.read(), start
    while last and time.monotonic() - since < BEATS_OF_SILENCE * board.beat_s:
        if time.monotonic() - start > max(PATIENCE_S, 3 * BEATS_OF_SILENCE * board.beat_s):
            who = last.partition(" ")[2].rpartition(" ")[0]
            raise UserError(
                f"{where}: is being trained already, by {who}; wait for it, or end it with a checkpoint: put an empty "
                "file named stop there"
            )
        time.sleep(board.beat_s / 4)
        now = board.read()
        if now != last:
            last, since = now, time.monotonic()
