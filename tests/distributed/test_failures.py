"""What happens on a real cluster when processes are killed, the disk is full, or W&B cannot be reached."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from distributed import checkpoint
from distributed.config import Recipe
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe
from distributed.train import train
from tests.support.small_runs import small_recipe
from tests.support.trainers import new_trainer, run_to
from tests.support.workers import on_workers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

ROOT = Path(__file__).parents[2]
STEPS = 60
LONG_RUN: dict[str, Any] = {
    "training.epochs": STEPS // 3,
    "training.evaluate_every": STEPS // 3,
    "checkpoint.every_steps": 2,
    "scaling.workers": 2,
    "engine.zero_stage": 2,
}


def write_recipe(folder: Path, recipe: Recipe) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return path


def course_of(recipe: Recipe) -> tuple[list[float], dict[str, float]]:
    """The losses of all steps and the scores after them, undisturbed and without Ray."""
    trainer = new_trainer(recipe)
    return run_to(trainer, trainer.total_steps).losses, trainer.evaluate()


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> tuple[list[float], dict[str, float]]:
    return on_workers(2, course_of, small_recipe(data, data / "nothing-is-saved", LONG_RUN))[0]


def check_log(run: Path, undisturbed: tuple[list[float], dict[str, float]]) -> None:
    """Every step is in the log once, with the loss that it has when nothing happens; so are the last scores."""
    losses, scores = undisturbed
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, len(losses) + 1))
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-5)
    assert {name: records[-1][name] for name in scores} == pytest.approx(scores, rel=1e-5)


def newest_step(run: Path) -> int:
    complete = [folder for folder in checkpoint.candidates(run) if (folder / checkpoint.MANIFEST).exists()]
    return int(complete[0].name.removeprefix("step-")) if complete else 0


def workers_below(process: psutil.Process, name: str = "RayTrainWorker") -> list[psutil.Process]:
    """The training workers, or other actors by their class, that a process's own cluster runs."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.cmdline()[:1] and child.cmdline()[0].startswith(f"ray::{name}"):
                found.append(child)
    return found


@pytest.mark.parametrize("name", ["RayTrainWorker", pytest.param("TrainController", marks=pytest.mark.rehearsal)])
def test_killed_worker_is_replaced(
    data: Path, tmp_path: Path, undisturbed: tuple[list[float], dict[str, float]], name: str
) -> None:
    """Also the process that looks after the workers, which end with it."""
    run = tmp_path / "runs" / "run"
    killed: list[int] = []

    def kill() -> None:
        while newest_step(run) < STEPS // 4:
            time.sleep(0.01)
        workers_below(psutil.Process(), name)[-1].kill()
        killed.append(newest_step(run))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    train([str(write_recipe(tmp_path, small_recipe(data, tmp_path / "runs", LONG_RUN)))])
    killer.join()
    assert killed[0] < STEPS  # it was still at work
    check_log(run, undisturbed)


@pytest.mark.rehearsal
def test_frozen_worker_is_named_and_replaced(
    data: Path, tmp_path: Path, undisturbed: tuple[list[float], dict[str, float]], capfd: pytest.CaptureFixture[str]
) -> None:
    """It neither dies nor answers: without a limit the others would wait in their next collective for ever."""
    run = tmp_path / "runs" / "run"
    frozen: list[int] = []

    def freeze() -> None:
        while newest_step(run) < STEPS // 4:
            time.sleep(0.01)
        worker = workers_below(psutil.Process())[-1]
        worker.suspend()
        frozen.append(worker.pid)

    freezer = threading.Thread(target=freeze, daemon=True)
    freezer.start()
    settings = {**LONG_RUN, "scaling.collective_timeout_s": 9}
    train([str(write_recipe(tmp_path, small_recipe(data, tmp_path / "runs", settings)))])
    freezer.join()
    check_log(run, undisturbed)
    shown = "".join(capfd.readouterr())
    assert re.search(rf"rank \d \(node \w+, process {frozen[0]}\) (has not been heard of|does not answer)", shown)


@pytest.mark.rehearsal
def test_killed_driver_and_cluster_go_on_with_another_number_of_workers(
    data: Path, tmp_path: Path, undisturbed: tuple[list[float], dict[str, float]]
) -> None:
    run = tmp_path / "runs" / "run"
    recipe = write_recipe(tmp_path, small_recipe(data, tmp_path / "runs", LONG_RUN))
    environment = {**os.environ, "RAY_ADDRESS": "local"}  # a cluster of its own
    with (tmp_path / "output").open("wb") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "distributed.train", recipe],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    here = psutil.Process(driver.pid)
    try:
        while newest_step(run) < STEPS // 4:
            assert driver.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.01)
        assert len(workers_below(here)) == 2
    finally:
        for process in [*here.children(recursive=True), here]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        driver.wait()
    assert newest_step(run) < STEPS
    train([str(recipe), "scaling.workers=1", "engine.zero_stage=1"])
    check_log(run, undisturbed)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes; skips the test where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a small tmpfs, which takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_ends_no_run(data: Path, tmp_path: Path) -> None:
    """A checkpoint takes 2.1 MB; while the second is written the first is still there."""
    settings = {"training.epochs": 3, "training.evaluate_every": 3, "model.width": 64, "checkpoint.keep": 1}
    recipe = write_recipe(tmp_path, small_recipe(data, tmp_path / "disk", settings))
    with small_disk(tmp_path / "disk", 3_200_000) as disk:
        train([str(recipe)])
        run = disk / "run"
        assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == list(range(1, 10))
        assert [folder.name for folder in checkpoint.candidates(run)] == ["step-00000003"]
        found = checkpoint.newest(run)  # reads and verifies it
        assert found is not None
        assert sum(facts["bytes"] for facts in found.manifest["files"].values()) > psutil.disk_usage(str(disk)).free
        assert not list(run.rglob("*.tmp"))


def test_run_ends_well_without_wandb(data: Path, tmp_path: Path) -> None:
    """The cluster's workers have a key, and an address of W&B where nobody answers."""
    settings = {"tracking.wandb": "auto", "training.epochs": 1}
    train([str(write_recipe(tmp_path, small_recipe(data, tmp_path / "runs", settings)))])
    run = tmp_path / "runs" / "run"
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all("loss" in record for record in records)
    assert list(run.glob("wandb/offline-run-*"))  # to be uploaded later
    key = os.environ["WANDB_API_KEY"].encode()
    assert not [path for path in run.rglob("*") if path.is_file() and key in path.read_bytes()]
