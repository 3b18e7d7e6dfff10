"""What a sweep leaves: the table of trials, and a recipe that trains the best configuration again."""

import csv
from pathlib import Path
from typing import Any

import pytest

from distributed.config import Recipe
from distributed.recipe_file import load_recipe
from tuning.config import overrides_of
from tuning.records import Mode, Record
from tuning.results import FIXED_COLUMNS, table_of, write_best, write_csv

ETA, COMBINER, DECAY = "optimiser.eta", "combiner", "schedule.linear_decay"
SUM = {"name": "sum"}


def record(number: int, values: dict[str, Any], *course: float, **changes: Any) -> Record:
    figures = {"selected": max(course), "loss": 0.5, "epoch": 2, "time": 1.7e9} if course else {}
    given = {"state": "finished", "course": tuple((2 * n, v) for n, v in enumerate(course, start=1)), **changes}
    return Record(number, f"s-{number:04d}", values, figures=figures, **given)


RECORDS = [
    record(0, {}, 0.25, 0.5, seconds=12.34, training_seconds=10.0),
    record(1, {ETA: 0.125, COMBINER: SUM}, 0.75, 0.625),
    record(2, {ETA: 0.25, DECAY: True}, state="failed", reason='no "memory", twice\nover'),
    record(3, {ETA: 0.5, "note": "1, 2"}, 0.75, state="stopped"),
]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_of_trials(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_csv(path, RECORDS, "max")
    rows = rows_of(path)
    assert list(rows[0]) == [*FIXED_COLUMNS, ETA, COMBINER, DECAY, "note", "figure:loss", "figure:selected"]
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["run"] for row in rows] == ["s-0000", "s-0001", "s-0002", "s-0003"]
    assert [row["state"] for row in rows] == ["finished", "finished", "failed", "stopped"]
    assert rows[2]["reason"] == 'no "memory", twice\nover'
    assert [row["best"] for row in rows] == ["0.5", "0.75", "", "0.75"]
    assert [row["epochs"] for row in rows] == ["4", "4", "0", "2"]
    assert [row["best_epoch"] for row in rows] == ["2", "2", "", "2"]
    assert (rows[0]["seconds"], rows[0]["training_seconds"]) == ("12.3", "10.0")
    assert [row[ETA] for row in rows] == ["", "0.125", "0.25", "0.5"]
    assert [row[COMBINER] for row in rows] == ["", '{"name": "sum"}', "", ""]
    assert (rows[2][DECAY], rows[3]["note"]) == ("true", "1, 2")
    assert [row["figure:loss"] for row in rows] == ["0.5", "0.5", "", "0.5"]


def test_table_by_mode() -> None:
    assert [row[4] for row in table_of(RECORDS, "min")[1]] == [0.25, 0.625, "", 0.75]


def test_no_trial_at_all(tmp_path: Path) -> None:
    write_csv(tmp_path / "results.csv", [], "max")
    assert (tmp_path / "results.csv").read_text() == ",".join(FIXED_COLUMNS) + "\n"


def recipe_of(folder: Path, chosen: Record) -> Recipe:
    """As a trial has it."""
    own = {"name": chosen.name, "storage": str(folder / "runs" / "s"), "tracking.group": "s", "training.epochs": 7}
    return load_recipe(Path("digits_meltr"), overrides_of({**own, **chosen.values}), Recipe)


@pytest.mark.parametrize(("mode", "number", "value"), [("max", 1, "0.75"), ("min", 0, "0.25")])
def test_best_recipe(tmp_path: Path, mode: Mode, number: int, value: str) -> None:
    """Of equals the earliest: trial 3 is as good as trial 1."""
    path, chosen = tmp_path / "best.yaml", RECORDS[number]
    recipe = recipe_of(tmp_path, chosen)
    write_best(path, RECORDS, mode, recipe, "selected")
    again = load_recipe(path, [], Recipe)
    assert again.trajectory() == recipe.trajectory()
    assert again.training.epochs == 7
    if chosen.values:
        assert (again.optimiser.eta, again.combiner.name) == (chosen.values[ETA], "sum")
    assert again.folder == tmp_path / "runs" / f"s-000{number}-best"  # beside the sweep: its trials stay as they are
    assert path.read_text().split("\n")[:2] == [
        f"# The best of 4 trials by selected ({mode}): trial {number}, {value}.",
        f"# Command:  python -m distributed.train {path}",
    ]


def test_no_result_at_all(tmp_path: Path) -> None:
    records = [record(0, {}, state="running"), record(1, {}, 0.5, state="failed")]
    write_best(tmp_path / "best.yaml", records, "max", recipe_of(tmp_path, records[0]), "selected")
    assert not (tmp_path / "best.yaml").exists()
    write_csv(tmp_path / "results.csv", records, "max")
    assert [row["state"] for row in rows_of(tmp_path / "results.csv")] == ["running", "failed"]
