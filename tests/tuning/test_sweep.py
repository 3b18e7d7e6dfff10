"""Sweeps on a real Ray cluster: trials from their samples to the results, failures, and what resuming leaves alone."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from distributed.config import AlignmentRecipe, Recipe
from distributed.metrics_file import read_metrics
from distributed.recipe_file import load_recipe
from models.errors import UserError
from tests.support.small_runs import recipe_values, small_recipe
from tests.support.trainers import train_all
from tests.support.workers import on_workers
from tuning.config import load_sweep
from tuning.journal import Journal
from tuning.records import Record
from tuning.runner import Runner
from tuning.sweep import sweep

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

ROOT = Path(__file__).parents[2]
ETA, SMOOTHING = "optimiser.eta", "training.label_smoothing"


def own_processes(name: str) -> list[psutil.Process]:
    """Those of this process's own cluster whose title begins so; other clusters may run on the machine."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if (process.cmdline() or [""])[0].startswith(name):
                found.append(process)
    return found


def write_sweep(folder: Path, data: Path, changes: dict[str, Any], recipe: dict[str, Any] | None = None) -> Path:
    """A sweep of two trials at a time over a tiny recipe."""
    base, path = folder / "recipe.json.yaml", folder / "sweep.yaml"
    base.write_text(json.dumps(recipe_values(data, folder / "elsewhere", {"training.epochs": 3, **(recipe or {})})))
    values = {
        "name": "search",
        "recipe": str(base),
        "storage": str(folder / "runs"),
        "space": {ETA: {"loguniform": [1e-4, 1e-2]}, SMOOTHING: {"uniform": [0.0, 0.2]}},
        "budget": {"trials": 3, "concurrent": 2, "retries": 1},
        "resources": {"workers": 1},
    }
    path.write_text(json.dumps({**values, **changes}))
    return path


def records_of(path: Path) -> list[Record]:
    """What the journal of a sweep says."""
    config = load_sweep(path, [], [])
    with Journal(config.folder, config.mode, config.searcher, config.seed) as journal:
        return journal.records(lambda number: f"{config.name}-{number:04d}")


def check_runs(records: Sequence[Record], data: Path) -> None:
    """The run of each trial has every step once, with the losses that its recipe gives in one process without Ray."""
    alone, logs = [], []
    for record in records:
        recipe = load_recipe(record.run / "recipe.yaml", [], AlignmentRecipe)
        values = {ETA: recipe.optimiser.eta, SMOOTHING: recipe.training.label_smoothing}
        assert {**values, **record.values} == values
        logged = read_metrics(record.run / "metrics.jsonl")
        assert [line["step"] for line in logged] == list(range(1, len(logged) + 1))
        changes = {**values, "training.epochs": recipe.training.epochs, "name": f"alone{record.number}"}
        alone.append(small_recipe(data, record.run / "alone", changes))
        logs.append(logged)
        told = {line["epoch"]: line["selected"] for line in logged if "selected" in line}
        assert dict(record.course) == {epoch: told[epoch] for epoch, _ in record.course}
    for logged, course in zip(logs, on_workers(1, train_all, alone, len(logs[0]))[0], strict=True):
        assert [line["loss"] for line in logged] == pytest.approx(course.losses, rel=1e-5)


def test_sweep_from_samples_to_results(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_sweep(tmp_path, data, {"budget": {"trials": 2, "concurrent": 2}}, {"tracking.wandb": "offline"})
    sweep([str(path)])
    out = capfd.readouterr().out
    records = records_of(path)
    assert [record.state for record in records] == ["finished"] * 2
    assert records[0].values == {}
    assert all(set(record.values) == {ETA, SMOOTHING} for record in records[1:])
    assert all([epoch for epoch, _ in record.course] == [1, 2, 3] for record in records)
    check_runs(records, data)
    best = max(records, key=lambda record: (max(value for _, value in record.course), -record.number))
    folder = tmp_path / "runs" / "search"
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [f"search-000{n}" for n in range(2)]
    assert [float(row["best"]) for row in rows] == [max(value for _, value in record.course) for record in records]
    again = load_recipe(folder / "best.yaml", [], Recipe)
    ran = load_recipe(best.run / "recipe.yaml", [], Recipe)
    assert again.trajectory() == ran.trajectory()
    assert "| base recipe |" in out
    assert f"| best (trial {best.number}) |" in out
    assert (folder / "sweep.html").read_text().startswith("<!doctype html>")
    # One W&B run a trial, and the sweep's own with the table.
    for record in records:
        (own,) = record.run.glob("wandb/offline-run-*/run-*.wandb")
        assert b"search" in own.read_bytes()
    (summary,) = folder.glob("wandb/offline-run-*")
    assert list((summary / "files" / "media" / "table").glob("trials_*.json"))

    before = {file: file.stat().st_mtime_ns for file in folder.glob("search-*/**/*") if file.is_file()}
    sweep(["--resume", str(folder), "budget.trials=3"])  # one more; what is over stays as it is
    longer = records_of(path)
    assert longer[:2] == records
    assert [record.state for record in longer] == ["finished"] * 3
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_failures_are_recorded_and_stop_nothing(data: Path, tmp_path: Path) -> None:
    """A loss that is not finite, values that do not go together, and a killed worker, whose run goes on."""
    space = {
        ETA: {"grid": [1e-3, 1e30]},
        "model.normalisation": {"grid": ["none", "sbn"], "when": {ETA: 1e-3}},
        "engine.accumulation": {"grid": [2], "when": {ETA: 1e-3}},
    }
    changes = {"space": space, "searcher": {"name": "grid"}, "base": False, "budget": {"trials": 9, "concurrent": 2}}
    path = write_sweep(tmp_path, data, changes, {"training.epochs": 30, "training.evaluate_every": 5})
    run = tmp_path / "runs" / "search" / "search-0000"
    killed: list[int] = []

    def kill() -> None:
        while not list(run.glob("checkpoints/*/manifest.json")):
            time.sleep(0.01)
        for process in own_processes("ray::RayTrainWorker"):
            if _recipe_of(process) == "search-0000":
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    sweep([str(path)])
    killer.join(timeout=1)
    records = records_of(path)
    assert [record.state for record in records] == ["finished", "failed", "failed"]
    assert "needs the statistics of the whole batch at once" in records[1].reason
    assert "training diverged" in records[2].reason
    logged = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in logged] == list(range(1, 91))
    assert killed


@pytest.mark.rehearsal
def test_a_trial_whose_process_dies_is_tried_again(data: Path, tmp_path: Path) -> None:
    """Ray Tune's part: with its process a trial loses its controller and its workers."""
    from ray.util.placement_group import placement_group_table

    changes = {"budget": {"trials": 1, "concurrent": 1, "retries": 1}}
    path = write_sweep(tmp_path, data, changes, {"training.epochs": 60, "checkpoint.every_steps": 9})
    run = tmp_path / "runs" / "search" / "search-0000"

    def kill() -> None:
        while not list(run.glob("checkpoints/*/manifest.json")):
            time.sleep(0.01)
        for process in own_processes("ray::ResourceTrainable"):
            process.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    sweep([str(path)])
    killer.join()
    (record,) = records_of(path)
    assert record.state == "finished"
    check_runs([record], data)
    # What had been reserved for its first attempt is free again.
    left = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    assert [group for group in left if any("CPU" in bundle for bundle in group["bundles"].values())] == []


def _recipe_of(process: psutil.Process) -> str:
    """The run that a training worker has files of open."""
    try:
        for file in process.open_files():
            if file.path.endswith("metrics.jsonl"):
                return Path(file.path).parent.name
    except psutil.NoSuchProcess:
        return ""
    return ""


@contextmanager
def driver(path: Path, output: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, which joins the tests' cluster."""
    import ray

    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tuning.sweep", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.rehearsal)])
def test_killed_driver_loses_no_trial_and_runs_none_twice(data: Path, tmp_path: Path, kills: int) -> None:
    trials = kills + 1
    changes = {"budget": {"trials": trials, "concurrent": 2}, "seed": 3}
    path = write_sweep(tmp_path, data, changes, {"training.epochs": 8, "checkpoint.every_steps": 3})
    folder, output = tmp_path / "runs" / "search", tmp_path / "output"
    source = random.Random(7)
    finished: dict[int, Record] = {}
    for attempt in range(kills):
        arguments = ["--resume", folder] if (folder / "sweep.yaml").exists() else [path]
        before = lines_in(folder / "journal.log")
        with driver(path, output, *arguments) as process:
            wait = before + source.randrange(4, 40)
            while lines_in(folder / "journal.log") < wait and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL if attempt < 2 else signal.SIGINT)
            process.wait()
        now = {record.number: record for record in records_of(path)}
        assert all(now[number] == record for number, record in finished.items())  # what was over has not been touched
        finished = {number: record for number, record in now.items() if record.state == "finished"}
    with driver(path, output, "--resume", folder) as process:
        assert process.wait() == 0, output.read_text()
    records = records_of(path)
    assert [record.state for record in records] == ["finished"] * trials
    # The same trials as of a sweep that nothing disturbs, and of each every step once.
    (tmp_path / "calm").mkdir()
    calm = write_sweep(tmp_path / "calm", data, {**changes, "budget": {"trials": trials}})
    config = load_sweep(calm, [], [])
    assert [record.values for record in records] == drawn(config, trials)
    check_runs(records, data)


def drawn(config: Any, trials: int) -> list[dict[str, Any]]:
    """The values of an undisturbed sweep's trials."""
    from tuning.space import sample

    with Journal(config.folder, config.mode, config.searcher, config.seed) as journal:
        asked = [
            journal.ask(trials, lambda number, trial: sample(config.space, trial, {}) if number else {})
            for _ in range(trials)
        ]
    return [values for _, values in filter(None, asked)]


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.rehearsal
def test_asha_stops_what_is_bad_in_order(data: Path, tmp_path: Path) -> None:
    """A stopped run has a checkpoint of its last step, and the base recipe goes to its end."""
    changes = {
        "space": {ETA: {"grid": [1e-3, 1e-12, 1e-11, 1e-10]}},
        "searcher": {"name": "grid"},
        "scheduler": {"name": "asha", "grace_epochs": 2, "reduction": 2},
        "metric": "epoch_loss",
        "mode": "min",
        "budget": {"trials": 5, "concurrent": 1},
    }
    path = write_sweep(tmp_path, data, changes, {"training.epochs": 200})
    sweep([str(path), "--set", "training.epochs=12"])
    records = records_of(path)
    assert [record.state for record in records] == ["finished", "finished", "stopped", "stopped", "stopped"]
    for record in records[2:]:
        steps = [line["step"] for line in read_metrics(record.run / "metrics.jsonl")]
        newest = max(record.run.glob("checkpoints/step-*/manifest.json"))
        assert json.loads(newest.read_text())["progress"]["step"] == steps[-1] < 36
        assert not (record.run / "stop").exists()


@pytest.mark.rehearsal
def test_population_goes_on_from_its_best(data: Path, tmp_path: Path) -> None:
    changes = {
        "space": {ETA: {"loguniform": [1e-9, 1e-2]}},
        "searcher": {"name": "pbt", "every_epochs": 10, "quantile": 0.5},
        "base": False,
        "metric": "epoch_loss",
        "mode": "min",
        "budget": {"trials": 2, "concurrent": 2},
    }
    # Long enough for both to be under way at once.
    path = write_sweep(tmp_path, data, changes, {"training.epochs": 80, "training.evaluate_every": 5})
    sweep([str(path)])
    records = records_of(path)
    assert [record.state for record in records] == ["finished"] * 2
    moved = [record for record in records if (record.run / "generation").exists()]
    assert moved  # somebody took over another's weights
    for record in records:
        recipe = load_recipe(record.run / "recipe.yaml", [], Recipe)
        assert recipe.optimiser.eta == record.values[ETA]
        assert 1e-9 <= recipe.optimiser.eta <= 1e-2
        steps = [line["step"] for line in read_metrics(record.run / "metrics.jsonl")]
        assert steps[-1] == 240


def test_more_workers_than_the_cluster_can_hold(data: Path, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, data, {"resources": {"workers": 5}})
    with pytest.raises(UserError, match=r"asks for 5 CPUs \(5 workers\), but this cluster has 4; lower"):
        sweep([str(path)])
    assert records_of(path) == []


def test_hours_of_a_budget(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs when the time is up, here after the first result, is asked to stop, and is still to be run."""
    monkeypatch.setattr(Runner, "time_is_up", lambda runner: any(record.course for record in runner.records()))
    budget = {"trials": 2, "concurrent": 1, "hours": 1.0}
    path = write_sweep(tmp_path, data, {"budget": budget}, {"training.epochs": 400, "training.evaluate_every": 2})
    folder = tmp_path / "runs" / "search"
    with pytest.raises(SystemExit) as ended:
        sweep([str(path)])
    assert ended.value.code == 130
    assert f"2 trials are still to be run: python -m tuning.sweep --resume {folder}" in capfd.readouterr().out
    (record,) = records_of(path)
    assert record.state == "running"
    steps = [line["step"] for line in read_metrics(record.run / "metrics.jsonl")]
    assert steps[-1] < 1200
    newest = max(record.run.glob("checkpoints/step-*/manifest.json"))
    assert json.loads(newest.read_text())["progress"]["step"] == steps[-1]


def test_unknown_metric_fails_every_trial_and_says_what_there_is(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(tmp_path, data, {"metric": "validation/recall", "budget": {"trials": 1}})
    sweep([str(path)])
    assert "no trial has a result yet" in capfd.readouterr().out
    (record,) = records_of(path)
    assert record.reason.startswith("the metric 'validation/recall' is not measured; there are step, ")
    assert "validation/text_iou" in record.reason
