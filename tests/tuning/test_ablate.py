"""Ablation tables on a real Ray cluster: every row and seed once, also where tables share them, and what is written."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from distributed.metrics_file import read_metrics
from tests.support.small_runs import recipe_values
from tests.support.workers import refusal
from tuning.ablate import ablate


def write_table(path: Path, recipe: Path, rows: list[dict[str, Any]]) -> Path:
    values = {
        "title": "Optimisers",
        "source": "a paper",
        "difference": "Other data.",
        "recipe": str(recipe),
        "seeds": 2,
        "columns": [
            {"name": "text IoU", "figure": "test/text_iou", "digits": 2},
            {"name": "loss", "figure": "log/epoch_loss", "last_epochs": 2, "digits": 3},
            {"name": "seconds", "figure": "seconds_an_epoch", "digits": 1},
        ],
        "rows": rows,
    }
    path.write_text(json.dumps(values))
    return path


ADAM: dict[str, Any] = {"name": "Adam", "values": {"optimiser.name": "adam"}, "published": [1.0, None, 3.0]}
LARS: dict[str, Any] = {"name": "LARS"}
ABSENT: dict[str, Any] = {"name": "Magic", "missing": "nobody has it", "published": [9.0, None, None]}


@pytest.fixture
def recipe(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(json.dumps(recipe_values(data, tmp_path / "elsewhere", {})))
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_tables_share_their_runs(recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = write_table(tmp_path / "first.yaml", recipe, [ADAM, ABSENT])
    second = write_table(tmp_path / "second.yaml", recipe, [ADAM])
    storage = tmp_path / "runs"
    ablate([str(first), "--storage", str(storage), "--workers", "1"])
    folder = storage / "ablate-base"
    runs = sorted(path.name for path in folder.glob("ablate-base-*"))
    assert runs == ["ablate-base-0000", "ablate-base-0001"]
    assert [entry["seed"] for entry in json.loads((folder / "plan.json").read_text())] == [101, 102]
    with (folder / "tables" / "first.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["run"]) for row in rows] == [
        ("Adam", "0"),
        ("Adam", "1"),
        ("Adam", "published"),
        ("Magic", "published"),
    ]
    for row, run in zip(rows[:2], runs, strict=True):
        logged = [line for line in read_metrics(folder / run / "metrics.jsonl") if "epoch" in line]
        assert float(row["loss"]) == pytest.approx(statistics.fmean(line["epoch_loss"] for line in logged[-2:]))
        assert float(row["seconds"]) > 0
    text = (folder / "tables" / "first.md").read_text()
    mean = statistics.fmean(float(row["text IoU"]) for row in rows[:2])
    spread = statistics.stdev(float(row["text IoU"]) for row in rows[:2])
    assert f"| Adam | {mean:.2f} ± {spread:.2f} | " in text
    assert "python -m tuning.ablate" in text
    assert "Magic: not run; nobody has it" in text
    capfd.readouterr()

    ablate([str(second), "--storage", str(storage), "--workers", "1"])  # all of it has been run
    assert "begins" not in capfd.readouterr().out
    assert sorted(path.name for path in folder.glob("ablate-base-*")) == runs
    assert (folder / "tables" / "second.tex").exists()


def test_a_row_that_the_recipe_refuses(recipe: Path, tmp_path: Path) -> None:
    rows = [LARS, {"name": "Adem", "values": {"optimiser.name": "adem"}}]
    table = write_table(tmp_path / "table.yaml", recipe, rows)
    message = refusal(ablate, table, "--storage", tmp_path / "runs")
    assert (
        message
        == "table, row 'Adem': 'optimiser.name' should be one of 'lars', 'adam'; found 'adem'; did you mean 'adam'?"
    )
    assert not (tmp_path / "runs").exists()


def test_tables_of_different_recipes(tmp_path: Path) -> None:
    assert "different recipes" in refusal(ablate, "neumatch_2", "meltr_9", "--storage", tmp_path)
    assert "did you mean 'neumatch_2'?" in refusal(ablate, "neumatch2", "--storage", tmp_path)
    assert "--seeds should be at least 1; found 0" in refusal(ablate, "neumatch_2", "--seeds", "0")
