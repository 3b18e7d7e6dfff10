"""The local log of figures, metrics.jsonl: one JSON object a line, complete also after a kill or a full disk."""

import contextlib
import json
import math
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed.say import warn
from models.errors import UserError


class MetricsFile:
    """Appends records to a file that it alone writes; each line is on its way to the disk when `append` returns.

    Lines that cannot be written (full disk, lost mount) wait in memory and are retried in order at every later
    `append` and at `close`; one warning says so.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        """Opens `path`, without the records of steps beyond `resume_step`: a resumed run logs those again."""
        self._path = path
        self._resume_step = resume_step
        self._waiting: deque[bytes] = deque()
        self._descriptor: int | None = None
        self._size = 0  # bytes of whole lines in the file
        self._warned = False
        self._flush()

    def append(self, record: Mapping[str, Any]) -> None:
        """`record` must be valid JSON: see `plain_figure`."""
        self._waiting.append(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._flush()

    def close(self) -> None:
        """Tries once more to write what waits, and says how many lines are lost if that fails."""
        self._flush()
        if self._waiting:
            warn(f"{self._path}: {len(self._waiting)} lines of figures could not be written and are lost")
            self._waiting.clear()
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
            except OSError as error:
                warn(f"{self._path}: the last figures may be missing: {error}")
            self._descriptor = None

    def _flush(self) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            while self._waiting:
                self._drop_half_line(self._descriptor)
                rest = self._waiting[0]
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                self._size += len(self._waiting.popleft())
        except OSError as error:
            if self._descriptor is not None:
                with contextlib.suppress(OSError):  # for whoever reads meanwhile; tried again before the next write
                    self._drop_half_line(self._descriptor)
            if not self._warned:
                reason = error.strerror or error
                warn(f"{self._path}: {reason}; figures are kept in memory and written once that is possible")
                self._warned = True

    def _drop_half_line(self, descriptor: int) -> None:
        if os.fstat(descriptor).st_size != self._size:
            os.ftruncate(descriptor, self._size)

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        before = self._path.read_bytes() if self._path.exists() else b""
        kept, unreadable = [], 0
        *lines, rest = before.split(b"\n")
        for line in [*lines, rest] if _record(rest) else lines:
            record = _record(line)
            unreadable += record is None
            if record is not None and record["step"] <= self._resume_step:
                kept.append(line + b"\n")
        after = b"".join(kept)
        if after != before:
            draft = self._path.with_name(self._path.name + ".tmp")
            with draft.open("wb") as file:
                file.write(after)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        if unreadable:
            warn(f"{self._path}: {unreadable} damaged lines were dropped")
        self._size = len(after)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; each has `step` (int) and `time` (seconds since 1970).

    Figures that are not finite are the strings "NaN", "Infinity" and "-Infinity", which float() reads. A last line cut
    short by a kill is left out; UserError for a file that cannot be read and for any other line that is no record.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise UserError(f"{path}:{number}: expected a JSON object with an integer 'step'; delete the line")
    return records


class MetricsTail:
    """Follows a metrics.jsonl that another process writes, and at times writes anew when its run is resumed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = -1, 0
        self._records: list[dict[str, Any]] = []

    def records(self) -> list[dict[str, Any]]:
        """All whole records so far; only what is new is read."""
        try:
            with self._path.open("rb") as file:
                now = os.fstat(file.fileno())
                if now.st_ino != self._inode or now.st_size < self._offset:
                    self._inode, self._offset, self._records = now.st_ino, 0, []
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._records += filter(None, map(_record, whole.split(b"\n")))
        return self._records


def plain_figure(value: Any) -> Any:
    """A figure as JSON has it: numbers of any library become int or float, lists keep their shape.

    What is not finite becomes "NaN", "Infinity" or "-Infinity". Raises TypeError or ValueError for other things.
    """
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, list | tuple):
        return [plain_figure(item) for item in value]
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None
