"""The train command on a real Ray cluster: a run from its recipe to its end, and what the same command does again."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed import checkpoint
from distributed.config import Recipe
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe, load_recipe
from distributed.train import launch, train
from models.errors import UserError
from tests.support.small_runs import small_recipe
from tests.support.trainers import train_all
from tests.support.workers import on_workers


def write_recipe(folder: Path, recipe: Recipe) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return path


def figures(records: list[dict[str, Any]], name: str) -> dict[int, float]:
    """The figure `name` by step."""
    return {record["step"]: record[name] for record in records if name in record}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_trains_continues_and_finishes(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = {"scaling.workers": 2, "engine.zero_stage": 2, "checkpoint.every_steps": 2, "checkpoint.keep": 1}
    recipe = write_recipe(tmp_path, small_recipe(data, tmp_path / "runs", settings))
    run = tmp_path / "runs" / "run"
    # What it is to compute, on one process without Ray.
    (course,) = on_workers(1, train_all, [small_recipe(data, tmp_path / "elsewhere")], 9)[0]

    train([str(recipe)])
    out = capfd.readouterr().out
    assert "finished run: step 6, validation/video_accuracy " in out
    assert f"run folder: {run}\n" in out
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert list(figures(records, "loss").values()) == pytest.approx(course.losses[:6], rel=1e-5)
    assert list(figures(records, "epoch_loss")) == list(figures(records, "validation/text_iou")) == [3, 6]
    last = records[-1]
    assert last["epoch"] == 2
    assert all(last[f"ratio/{part}"] > 0 for part in ("video_stack", "text_stack", "action_matched_stacks", "fc"))
    assert len(last["stack/video_mean"]) == len(last["stack/text_variance"]) == 16
    assert load_recipe(run / "recipe.yaml", [], Recipe) == load_recipe(recipe, [], Recipe)
    # Those after steps 2 and 4 are gone, and the one after step 3 unless it is the best.
    assert {folder.name for folder in checkpoint.candidates(run)} - {"step-00000003"} == {"step-00000006"}
    newest = checkpoint.newest(run)
    assert newest is not None
    assert newest.manifest["workers"] == 2
    assert newest.manifest["progress"]["figures"]["validation/text_iou"] == last["validation/text_iou"]
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}

    train([str(recipe)])  # there is nothing left to do
    assert "finished run: step 6, validation/video_accuracy " in capfd.readouterr().out
    assert read_metrics(run / "metrics.jsonl") == records
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")} == before

    train([str(recipe), "training.epochs=3", "scaling.workers=3", "engine.zero_stage=3"])  # a longer run goes on
    assert "finished run: step 9, validation/video_accuracy " in capfd.readouterr().out
    longer = read_metrics(run / "metrics.jsonl")
    assert longer[:6] == records
    assert list(figures(longer, "loss").values()) == pytest.approx(course.losses, rel=1e-5)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["training"]["epochs"] == 3


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_holds_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks for 5 CPUs \(5 workers\), but this cluster has 4; lower scaling"):
        launch(small_recipe(data, tmp_path, {"scaling.workers": 5}))
    with pytest.raises(UserError, match=r"scaling asks for 6 CPUs \(2 workers\), but this cluster has 4"):
        launch(small_recipe(data, tmp_path, {"scaling.workers": 2, "scaling.cpus_per_worker": 3}))
    with pytest.raises(UserError, match=r"scaling asks for 1 GPUs \(1 workers\), but this cluster has 0"):
        launch(small_recipe(data, tmp_path, {"scaling.gpus_per_worker": 1}))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_mistake_that_only_a_worker_can_find_is_one_line(data: Path, tmp_path: Path) -> None:
    """A rate that overflows: the loss is not finite at the second step. Ray must not retry, nor print a traceback."""
    settings = {"optimiser.eta": 1e30, "optimiser.name": "adam", "training.epochs": 5}
    recipe = write_recipe(tmp_path, small_recipe(data, tmp_path / "runs", settings))
    with pytest.raises(UserError, match=r"^[^\n]* at step 1: training diverged; lower optimiser.eta [^\n]*$"):
        train([str(recipe)])
    assert checkpoint.newest(tmp_path / "runs" / "run") is None  # nothing of it was saved
