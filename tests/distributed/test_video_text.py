"""UniVL with a learned loss: one trajectory on any workers and any ZeRO stage, through a kill, and from the command."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from distributed import checkpoint
from distributed.config import Recipe
from distributed.evaluate import evaluate
from distributed.export import export
from distributed.exported import checkpoint_of
from distributed.inspect import inspect
from distributed.recipe_file import dump_recipe
from distributed.tasks import load_task
from distributed.train import train
from models.backbones.univl.network import LOSSES
from models.backbones.univl.official import official_state
from tests.support.small_videos import small_videos, video_recipe
from tests.support.trainers import new_trainer, train_and_save
from tests.support.workers import WorkerError, on_workers

STEPS, FEW = 20, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_videos(tmp_path_factory.mktemp("videos"))


def learn(recipes: Sequence[Recipe], steps: int, save_after: Sequence[int] = ()) -> list[list[dict[str, float]]]:
    """The figures of each step, from each run's newest checkpoint on."""
    courses = []
    for recipe in recipes:
        trainer, figures = new_trainer(recipe), []
        while trainer.state.step < steps:
            trainer.train_step()
            figures.append(trainer.figures)
            if trainer.state.batch == trainer.batches:
                trainer.epoch_figures(None)
            if trainer.state.step in save_after:
                trainer.save()
        courses.append(figures)
    return courses


def losses(course: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in step.items() if name.startswith("loss/")} for step in course]


def same(found: list[dict[str, float]], expected: list[dict[str, float]], rel: float) -> None:
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(losses(found), losses(expected), strict=True)):
        assert ours == pytest.approx(theirs, rel=rel), number


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    recipe = video_recipe(data, tmp_path_factory.mktemp("alone"), {"training.epochs": 4})
    return on_workers(1, learn, [recipe], STEPS)[0][0]


def test_the_losses_fall(alone: list[dict[str, float]]) -> None:
    names = {name for name in alone[0] if name.startswith("loss/")}
    assert len(names) == 8
    assert sum(alone[-1][name] for name in names) < sum(alone[0][name] for name in names)
    assert sum("hypergradient_norm" in step for step in alone) == 9  # K = 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.rehearsal)])
def test_the_trajectory_is_that_of_one_process(
    data: Path, alone: list[dict[str, float]], tmp_path: Path, workers: int
) -> None:
    # Forward mode needs whole weights, which stage 3 does not keep.
    changes: dict[str, object] = {"training.epochs": 4, "scaling.workers": workers}
    stages = (0, 1, 2) if workers == 2 else (1,)
    recipes = [video_recipe(data, tmp_path, {**changes, "engine.zero_stage": stage}) for stage in stages]
    for by_stage in on_workers(workers, learn, recipes, STEPS):
        for figures in by_stage:
            same(figures, alone, 1e-5)
    cut_up = video_recipe(data, tmp_path, {**changes, "engine.zero_stage": 3, "combiner.way": "per_task"})
    for (figures,) in on_workers(workers, learn, [cut_up], FEW):  # each takes many seconds
        same(figures, alone[:FEW], 1e-5)


@pytest.mark.slow
def test_workers_that_need_more_turns_than_others(data: Path, tmp_path: Path) -> None:
    """Shares of 3 and 2 texts, two at a time: where weights are cut up, every turn is a collective call."""
    changes: dict[str, object] = {"training.batch_size": 5, "model.align_chunk": 10, "combiner.way": "per_task"}
    recipes = [video_recipe(data, tmp_path, {**changes, "engine.zero_stage": stage}) for stage in (0, 3)]
    expected = on_workers(1, learn, recipes[:1], 6)[0][0]
    for course in on_workers(2, learn, recipes, FEW)[0]:
        same(course, expected[:FEW], 1e-5)


@pytest.mark.slow
def test_goes_on_elsewhere_in_the_middle_of_the_inner_loop(
    data: Path, alone: list[dict[str, float]], tmp_path: Path
) -> None:
    first, second = (
        video_recipe(data, tmp_path, {"training.epochs": 4, "engine.zero_stage": stage}) for stage in (2, 1)
    )
    on_workers(2, learn, [first], 9, [9])
    found = on_workers(1, learn, [second], STEPS)[0][0]
    same(found, alone[9:], 1e-5)


def test_recomputed_blocks_change_nothing(data: Path, alone: list[dict[str, float]], tmp_path: Path) -> None:
    changes = {"training.epochs": 4, "engine.activation_checkpointing": True, "model.align_chunk": 7}
    same(on_workers(1, learn, [video_recipe(data, tmp_path, changes)], 6)[0][0], alone[:6], 1e-5)


def test_bf16_learns(data: Path, tmp_path: Path) -> None:
    recipe = video_recipe(data, tmp_path, {"engine.precision": "bf16", "training.epochs": 4})
    course = losses(on_workers(1, learn, [recipe], STEPS)[0][0])
    assert sum(course[-1].values()) < sum(course[0].values())


def frozen_parts(recipe: Recipe, steps: int) -> tuple[list[float], list[float]]:
    """How far each part's weights have moved, frozen ones first, and the hypergradient's norms."""
    trainer = new_trainer(recipe)
    before = {name: tensor.clone() for name, tensor in trainer.engine.weights().items()}
    norms = []
    while trainer.state.step < steps:
        trainer.train_step()
        norms += [value for name, value in trainer.figures.items() if name == "hypergradient_norm"]
    trainer.save()
    again = new_trainer(recipe)
    moved = {"text": 0.0, "visual": 0.0, "cross": 0.0}
    for name, tensor in again.engine.weights().items():
        part = trainer.task.component(name)
        if part in moved:
            moved[part] += float((tensor.float() - before[name].float()).norm())
    return list(moved.values()), norms


@pytest.mark.parametrize("changes", [{}, {"engine.zero_stage": 2}, {"engine.precision": "bf16"}])
def test_frozen_parts_stay_as_they_are(data: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    recipe = video_recipe(data, tmp_path, {"model.frozen": ["text", "visual"], "training.epochs": 4, **changes})
    for (text, visual, cross), norms in on_workers(2, frozen_parts, recipe, 5):
        assert (text, visual) == (0, 0)
        assert cross > 0
        assert len(norms) == 2
        assert all(norm > 0 for norm in norms)


def test_low_rank_matrices_learn_the_same_on_two_workers(data: Path, tmp_path: Path) -> None:
    changes = {"model.lora": {"rank": 2}, "training.epochs": 4}
    recipes = [video_recipe(data, tmp_path, {**changes, "engine.zero_stage": stage}) for stage in (0, 2)]
    expected = on_workers(1, learn, recipes[:1], 6)[0][0]
    for course in on_workers(2, learn, recipes, 6)[0]:
        same(course, expected, 1e-5)
    assert expected[-1]["loss/joint"] != expected[0]["loss/joint"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_micro_batches_see_the_whole_batch(
    data: Path, alone: list[dict[str, float]], tmp_path: Path, workers: int
) -> None:
    changes = {"training.epochs": 4, "engine.accumulation": 3, "scaling.workers": workers}  # of 8 samples
    variants: list[dict[str, object]] = [{}, {"engine.activation_checkpointing": True, "engine.zero_stage": 1}]
    if workers > 1:
        variants.append({"engine.zero_stage": 3, "combiner.way": "per_task"})
    recipes = [video_recipe(data, tmp_path, {**changes, **variant}) for variant in variants]
    for course in on_workers(workers, learn, recipes, 3)[0]:  # with one meta step
        same(course, alone[:3], 1e-4)


def test_a_loss_that_is_not_finite_is_named(data: Path, tmp_path: Path) -> None:
    recipe = video_recipe(data, tmp_path, {"optimiser.eta": 1e30, "optimiser.gradient_cap": 0.0, "training.epochs": 4})
    with pytest.raises(WorkerError, match=r"UserError: loss '\w+' is (nan|inf)"):
        on_workers(1, learn, [recipe], STEPS)


@pytest.mark.parametrize("changes", [{}, {"model.lora": {"rank": 2}}, {"model.frozen": ["text", "cross"]}])
def test_an_export_is_what_was_trained(data: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    recipe = video_recipe(data, tmp_path, {**changes, "training.epochs": 4, "optimiser.eta": 0.01})
    on_workers(1, train_and_save, recipe, [4], 4)
    export([str(recipe.folder), "--to", str(tmp_path / "export")])
    trained = load_task(recipe)
    network = trained.network()
    network.load_state_dict(checkpoint.whole_weights(checkpoint_of(recipe.folder, "last")))
    expected = trained.score_sums(network, "test", 0, 1)
    next_one = load_task(video_recipe(data, tmp_path, {"model.checkpoint": str(tmp_path / "export")}))
    torch.manual_seed(5)
    again = next_one.network()
    assert torch.equal(next_one.score_sums(again, "test", 0, 1), expected)
    batch = next_one.batch([0, 5, 9], torch.device("cpu"), 3)
    with torch.no_grad():
        ours, theirs = (net.eval()(batch, LOSSES) for net in (again, network))
    for name in LOSSES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)
    saying = video_recipe(data, tmp_path, {"task": "captioning", "model.checkpoint": str(tmp_path / "export")})
    assert load_task(saying).network() is not None
    about = json.loads((tmp_path / "export" / "config.json").read_text())
    assert (about["task"], about["step"], about["model"]["lora"]) == ("retrieval", 4, None)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("task", [pytest.param("retrieval", marks=pytest.mark.rehearsal), "captioning"])
def test_from_a_recipe_to_scores(
    data: Path, tmp_path: Path, task: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # not where the cluster was started
    changes = {"task": task, "scaling.workers": 2, "inputs.sample": "video", "training.epochs": 2, "name": task}
    path = tmp_path / "recipe.yaml"
    start = load_task(video_recipe(data, Path("runs"), changes)).network()
    torch.save(official_state(start), "start.bin")
    changes["model.checkpoint"] = "start.bin"
    path.write_text(dump_recipe(video_recipe(data, Path("runs"), changes)))
    train([str(path)])
    (tmp_path / "start.bin").unlink()  # a run holds all that it needs
    run = tmp_path / "runs" / task
    evaluate([str(run)])
    rows = json.loads((run / "evaluation-test.json").read_text())["rows"]
    assert set(rows) == ({task, "ridge (mean frame, MiniLM)"} if task == "retrieval" else {task})
    scores = rows[task]
    expected = {"R@1", "R@5", "R@10", "MedR", "MeanR"} if task == "retrieval" else {"BLEU-4", "ROUGE-L", "CIDEr"}
    assert expected <= set(scores)
    assert "| test, step" in capfd.readouterr().out
    if task == "retrieval":
        inspect([str(run)])
        assert (run / "inspect" / "index.html").is_file()
