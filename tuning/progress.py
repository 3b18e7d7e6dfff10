"""The live table of a sweep's trials: what runs, how far it is, the best so far, how long it will take."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from distributed.progress import duration, short
from tuning.records import Mode, Record, best_of

EVERY_S = 0.5
SHOWN = 20
"""Rows of the table on a screen."""


class LiveTable:
    """On a terminal a table that is drawn again in place; elsewhere a line for every trial that begins or ends."""

    def __init__(self, title: str, metric: str, mode: Mode, trials: int, epochs: int) -> None:
        self.title, self.metric, self.mode = title, metric, mode
        self.trials, self.epochs = trials, epochs
        self.console = Console(highlight=False)
        self.records: list[Record] = []
        self.began, self.before = time.monotonic(), -1
        self.said: dict[int, str] = {}
        self._live: Live | None = None

    def __enter__(self) -> "LiveTable":
        if self.console.is_terminal:
            self._live = Live(get_renderable=self.table, console=self.console, refresh_per_second=1 / EVERY_S)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, records: list[Record]) -> None:
        """Shows how things are."""
        self.records = records
        if self.before < 0:
            self.before = self.over
        if self._live is not None:
            return
        for record in records:
            if self.said.get(record.number) != record.state:
                known = record.number in self.said
                self.said[record.number] = record.state
                if known or record.state == "running" or self.over > self.before:
                    self.console.print(self._line(record), soft_wrap=True, markup=False)

    @property
    def over(self) -> int:
        """Trials that have ended."""
        return sum(record.state != "running" for record in self.records)

    def summary(self) -> str:
        """One line: how far the sweep is, the best so far, the time left."""
        best = best_of(self.records, self.mode)
        parts = [f"{self.over}/{self.trials} trials over"]
        if best is not None:
            parts.append(f"best {self.metric} {best.best(self.mode):.4g} (trial {best.number})")
        done = self.over - max(self.before, 0)
        if done and self.over < self.trials:
            left = (time.monotonic() - self.began) / done * (self.trials - self.over)
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def table(self) -> Table:
        """The newest trials, the best first among those that are over."""
        table = Table(title=f"{self.title}: {self.summary()}", title_justify="left", expand=False)
        keys = sorted({key for record in self.records for key in record.values})
        for name in ("trial", "state", self.metric, "epoch", "time", *keys):
            table.add_column(name, justify="left" if name == "state" else "right")
        best = best_of(self.records, self.mode)
        for record in self._rows():
            style = "bold green" if record is best else "dim" if record.state in ("failed", "stopped") else None
            table.add_row(*self._cells(record), *(short(record.values.get(key, "")) for key in keys), style=style)
        return table

    def _rows(self) -> Sequence[Record]:
        running = [record for record in self.records if record.state == "running"]
        worst = float("-inf") if self.mode == "max" else float("inf")

        def place(record: Record) -> float:
            value = record.best(self.mode)
            return worst if value is None else value

        ended = sorted((r for r in self.records if r.state != "running"), key=place, reverse=self.mode == "max")
        return [*running, *ended][:SHOWN]

    def _cells(self, record: Record) -> list[str]:
        value = record.best(self.mode)
        epoch = f"{record.course[-1][0]}/{self.epochs}" if record.course else f"0/{self.epochs}"
        return [
            str(record.number),
            record.state,
            "" if value is None else f"{value:.4g}",
            epoch,
            duration(record.seconds),
        ]

    def _line(self, record: Record) -> str:
        values = " ".join(f"{key}={short(value)}" for key, value in record.values.items()) or "the base recipe"
        if record.state == "running":
            return f"trial {record.number} begins: {values}"
        value = record.best(self.mode)
        figure = "" if value is None else f" {self.metric} {value:.4g}"
        why = f" ({record.reason})" if record.reason else ""
        return f"trial {record.number} {record.state}{figure} after {duration(record.seconds)}{why}; {self.summary()}"
