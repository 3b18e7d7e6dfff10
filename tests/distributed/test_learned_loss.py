"""A run with a learned loss: the same on any workers and any ZeRO stage, resumed anywhere in its inner loop."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed import checkpoint
from distributed.config import Recipe
from distributed.evaluate import evaluate
from distributed.export import export
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe
from distributed.train import prepare, train
from models.errors import UserError
from tests.support.learned_runs import digits_recipe
from tests.support.trainers import new_trainer
from tests.support.workers import WorkerError, on_workers

STEPS = 7
WAYS = ("per_task", "forward_mode", "finite_difference", "one_sided_difference")


def learn(recipes: Sequence[Recipe], steps: int) -> list[list[dict[str, float]]]:
    """The figures of each step of fresh runs."""
    return [continue_to(recipe, steps)[0] for recipe in recipes]


def continue_to(
    recipe: Recipe, steps: int, save_after: Sequence[int] = ()
) -> tuple[list[dict[str, float]], list[float]]:
    """From the run's newest checkpoint to `steps` -> the figures of each step, and phi at the end."""
    trainer = new_trainer(recipe)
    figures = []
    while trainer.state.step < steps:
        trainer.train_step()
        figures.append(trainer.figures)
        if trainer.state.step in save_after:
            trainer.save()
    learned = trainer.combiner.learned
    assert learned is not None
    return figures, torch.cat([p.detach().flatten() for p in learned.parameters]).tolist()


def same(found: list[dict[str, float]], expected: list[dict[str, float]], rel: float) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=rel, abs=rel)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    recipe = digits_recipe(tmp_path_factory.mktemp("alone"))
    (figures,) = on_workers(1, learn, [recipe], STEPS)[0]
    return figures


def test_the_primary_loss_falls_and_phi_moves(alone: list[dict[str, float]]) -> None:
    assert [i for i, step in enumerate(alone) if "hypergradient_norm" in step] == [2, 4, 6]  # K = 2
    assert alone[-1]["loss/classification"] < alone[0]["loss/classification"]
    starts = [value for name, value in alone[0].items() if name.startswith("coefficient/")]
    assert starts == pytest.approx([1, 1, 1], abs=0.5)  # initialised as the sum, by a tiny network
    assert alone[1]["coefficient/mixup"] != alone[-1]["coefficient/mixup"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_the_trajectory_is_that_of_one_process(alone: list[dict[str, float]], tmp_path: Path, workers: int) -> None:
    stages = (0, 1, 2, 3)
    recipes = [digits_recipe(tmp_path, {"engine.zero_stage": stage, "scaling.workers": workers}) for stage in stages]
    for by_stage in on_workers(workers, learn, recipes, STEPS):
        for figures in by_stage:
            # c comes from phi, which takes Adam's steps: their direction feels the last bits of tiny gradients.
            same(figures, alone, 1e-3)
            for ours, theirs in zip(figures, alone, strict=True):
                for name in ("classification", "mixup", "rotation"):
                    assert ours[f"loss/{name}"] == pytest.approx(theirs[f"loss/{name}"], rel=2e-5), name


def test_every_exact_way_takes_the_same_course(alone: list[dict[str, float]], tmp_path: Path) -> None:
    recipes = [digits_recipe(tmp_path, {"combiner.way": way}) for way in WAYS]
    courses = on_workers(1, learn, recipes, STEPS)[0]
    # A difference's error moves phi's Adam, and phi every later step.
    tolerance = {"finite_difference": 2e-2, "one_sided_difference": 5e-2}
    for way, figures in zip(WAYS, courses, strict=True):
        same(figures, alone, tolerance.get(way, 1e-3))


@pytest.mark.parametrize("way", ["finite_difference", "one_sided_difference"])
def test_differences_see_moved_weights_where_zero_has_cut_them_up(tmp_path: Path, way: str) -> None:
    """DeepSpeed keeps gathered weights from one forward pass to the next, unless it is told that they have changed."""
    recipes = [digits_recipe(tmp_path, {"combiner.way": way, "engine.zero_stage": stage}) for stage in (2, 3)]
    two, three = on_workers(2, learn, recipes, STEPS)[0]
    for ours, theirs in zip(three, two, strict=True):
        assert ours.keys() == theirs.keys()
        if "hypergradient_norm" in theirs:
            assert ours["hypergradient_norm"] == pytest.approx(theirs["hypergradient_norm"], rel=1e-2)
        assert ours["loss/classification"] == pytest.approx(theirs["loss/classification"], rel=2e-5)


@pytest.mark.slow
def test_phi_has_the_same_bits_after_twenty_meta_steps(tmp_path: Path) -> None:
    recipes = [digits_recipe(tmp_path, {"combiner.inner_steps": 1, "engine.zero_stage": stage}) for stage in (0, 2)]
    for recipe in recipes:
        courses = on_workers(4, continue_to, recipe, 21)
        assert sum("hypergradient_norm" in step for step in courses[0][0]) == 20
        for _, phi in courses:
            assert phi == courses[0][1]


def test_activation_checkpointing_changes_no_number(alone: list[dict[str, float]], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"engine.activation_checkpointing": True}
    # Forward mode first: DeepSpeed's stage 3 replaces torch's linear function for the rest of the process.
    settings: list[dict[str, Any]] = [{"combiner.way": "forward_mode"}]
    settings += [{"engine.zero_stage": stage} for stage in (0, 2, 3)]
    recipes = [digits_recipe(tmp_path, {**changes, **setting}) for setting in settings]
    for figures in on_workers(1, learn, recipes, STEPS)[0]:
        same(figures, alone, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("saved_after", [3, 4, 5])
def test_resumes_anywhere_in_the_inner_loop(tmp_path: Path, saved_after: int) -> None:
    def recipe(name: str, **changes: Any) -> Recipe:
        return digits_recipe(tmp_path, {"name": name, "combiner.inner_steps": 3, **changes})

    expected, phi = on_workers(1, continue_to, recipe("undisturbed"), STEPS)[0]
    on_workers(2, continue_to, recipe("resumed", **{"engine.zero_stage": 2}), saved_after, [saved_after])
    found, phi_resumed = on_workers(1, continue_to, recipe("resumed", **{"engine.zero_stage": 1}), STEPS)[0]
    same(found, expected[saved_after:], 1e-3)
    # Not entry by entry: where a gradient is nearly zero, its rounding decides which way Adam's step goes.
    drift = torch.tensor(phi_resumed) - torch.tensor(phi)
    assert float(drift.norm() / torch.tensor(phi).norm()) < 5e-3
    saved = checkpoint.newest(tmp_path / "resumed")
    assert saved is not None
    assert saved.manifest["learned_loss"]["names"] == ["classification", "mixup", "rotation"]
    assert saved.manifest["learned_loss"]["primary"] == "classification"


@pytest.mark.slow
def test_meta_data_schemes_and_phi(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"combiner.meta_data": "replay"},
        {"combiner.meta_data": "held_out"},
        {"combiner.meta_fraction": 0.3},
        {"combiner.scheme": "stocbio"},
        {"combiner.scheme": "itd"},
        {"combiner.initialisation": "paper", "combiner.gamma": 0.0},
    ]
    recipes = [digits_recipe(tmp_path, {"optimiser.eta": 0.001, **setting}) for setting in settings]
    one, two = (on_workers(workers, learn, recipes, 5) for workers in (1, 2))
    assert two[0] == two[1]  # bit for bit: phi cannot drift apart
    for setting, ours, theirs in zip(settings, two[0], one[0], strict=True):
        assert any("hypergradient_norm" in step for step in ours), setting
        if "combiner.scheme" in setting and setting["combiner.scheme"] == "stocbio":
            continue  # differences of gradients of a network with kinks amplify rounding
        same(ours, theirs, 5e-3)


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    recipe = digits_recipe(tmp_path, {"optimiser.eta": 1e30, "optimiser.gradient_cap": 0.0})
    with pytest.raises(WorkerError, match=r"UserError: loss '(classification|mixup|rotation)' is (nan|inf)"):
        on_workers(1, learn, [recipe], 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"combiner.way": "double_backward"}, "runs outside the engine alone"),
        ({"combiner.way": "forward_mode", "engine.zero_stage": 3}, "needs whole weights on every worker"),
        ({"combiner.way": "finite_difference", "engine.precision": "bf16"}, "wrong sign"),
        ({"combiner.way": "one_sided_difference", "engine.precision": "bf16"}, "wrong sign"),
        ({"combiner.scheme": "aid_cg", "engine.precision": "bf16"}, "wrong sign"),
        ({"engine.accumulation": 2}, "normalises over the whole batch at once"),
        ({"scaling.workers": 25}, "cannot be shared by"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        digits_recipe(tmp_path, changes)


def test_a_weight_for_a_loss_that_is_not_there(tmp_path: Path) -> None:
    recipe = digits_recipe(tmp_path, {"combiner": {"name": "weighted", "weights": {"classificaton": 1.0}}})
    with pytest.raises(UserError, match=r"combiner\.weights\.classificaton: this task has no such loss"):
        prepare(recipe)
    assert not recipe.folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_commands_from_a_recipe_to_a_score(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(digits_recipe(tmp_path / "runs", {"scaling.workers": 2, "training.epochs": 2})))
    train([str(path)])
    run = tmp_path / "runs" / "digits"
    records = read_metrics(run / "metrics.jsonl")
    steps = [record for record in records if "coefficient/rotation" in record]
    assert len(steps) == records[-1]["step"]  # every step's
    evaluate([str(run)])
    assert "| accuracy |" in capfd.readouterr().out
    scores = json.loads((run / "evaluation-test.json").read_text())["rows"]["digits"]
    assert scores["accuracy"] > 20  # ten classes
    with pytest.raises(UserError, match="an alignment run is expected"):
        export([str(run)])
