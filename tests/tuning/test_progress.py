"""What a sweep shows while it runs: a table on a terminal, a line an event elsewhere."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tuning.progress import LiveTable
from tuning.records import Record, State


def record(number: int, state: State = "running", **more: Any) -> Record:
    return Record(number, f"s-{number:04d}", {"optimiser.eta": 0.001 * (number + 1)}, state, run=Path(), **more)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> LiveTable:
    monkeypatch.setenv("COLUMNS", "160")
    shown = LiveTable("search", "accuracy", "max", trials=4, epochs=10)
    shown.console = Console(file=io.StringIO(), width=160, highlight=False)
    return shown


def printed(table: LiveTable) -> list[str]:
    file = table.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def drawn(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(table.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_line_for_every_trial_that_begins_or_ends(table: LiveTable) -> None:
    with table:
        table.update([record(0)])
        table.update([record(0, course=((1, 0.5),))])  # a result is no event
        ended = record(0, "finished", course=((1, 0.5), (2, 0.25)), seconds=65.0)
        table.update([ended, record(1)])
        table.update([ended, record(1, "failed", reason="training diverged", seconds=3.0), record(2)])
    assert printed(table)[0] == "trial 0 begins: optimiser.eta=0.001"
    assert printed(table)[1].startswith(
        "trial 0 finished accuracy 0.5 after 1m05s; 1/4 trials over, best accuracy 0.5 "
    )
    assert printed(table)[2] == "trial 1 begins: optimiser.eta=0.002"
    assert printed(table)[3].startswith("trial 1 failed after 3s (training diverged); 2/4 trials over, ")
    assert printed(table)[4:] == ["trial 2 begins: optimiser.eta=0.003"]


def test_a_resumed_sweep_does_not_tell_again_what_is_over(table: LiveTable) -> None:
    over = record(0, "finished", course=((1, 0.5),))
    with table:
        table.update([over])
        table.update([over, record(1)])
    assert printed(table) == ["trial 1 begins: optimiser.eta=0.002"]


def test_time_left_counts_what_this_session_has_done(table: LiveTable, monkeypatch: pytest.MonkeyPatch) -> None:
    over = record(0, "finished", course=((1, 0.5),))
    table.update([over])
    assert table.summary() == "1/4 trials over, best accuracy 0.5 (trial 0)"  # nothing to go by yet
    monkeypatch.setattr("time.monotonic", lambda: table.began + 30.0)
    table.update([over, record(1, "finished", course=((1, 0.75),))])
    assert table.summary() == "2/4 trials over, best accuracy 0.75 (trial 1), about 1m00s left"


def test_table_has_what_runs_first_then_the_best(table: LiveTable) -> None:
    table.update(
        [
            record(0, "finished", course=((1, 0.5), (10, 0.4)), seconds=70.0),
            record(1, "failed", reason="no such file"),
            record(2, "stopped", course=((3, 0.75),)),
            record(3, course=((2, 0.1),)),
        ]
    )
    rows = [line.split("│")[1:6] for line in drawn(table).splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["3", "running", "0.1", "2/10", "0s"],
        ["2", "stopped", "0.75", "3/10", "0s"],
        ["0", "finished", "0.5", "10/10", "1m10s"],
        ["1", "failed", "", "0/10", "0s"],
    ]
    assert "search: 3/4 trials over, best accuracy 0.75 (trial 2)" in drawn(table)
