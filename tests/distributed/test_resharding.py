"""Checkpoints of 2 workers at ZeRO 1, 2 and 3 go on with 1, 3 and 4 workers, and what those save with 2 again."""

import shutil
from pathlib import Path

import pytest

from distributed.config import Recipe
from tests.support.small_runs import small_recipe
from tests.support.trainers import new_trainer, run_to, train_all
from tests.support.workers import on_workers

STAGES = (1, 2, 3)
FIRST, SECOND, LAST = 5, 10, 15


def recipes_in(data: Path, storage: Path) -> list[Recipe]:
    """One run a stage. Wide enough that ZeRO-3 cuts up every kind of tensor."""
    every = {"model.width": 64, "training.epochs": 100}
    return [small_recipe(data, storage / str(stage), {**every, "engine.zero_stage": stage}) for stage in STAGES]


def go_on(recipes: list[Recipe], begin: int, end: int) -> list[list[float]]:
    """Takes each run from step `begin` to `end`, and saves it there -> the losses on the way."""
    losses = []
    for recipe in recipes:
        trainer = new_trainer(recipe)
        assert trainer.state.step == begin
        losses.append(run_to(trainer, end).losses)
        assert trainer.save() is not None
    return losses


@pytest.mark.slow
def test_any_number_of_workers_there_and_back(data: Path, tmp_path: Path) -> None:
    begun = tmp_path / "2"
    first = on_workers(2, go_on, recipes_in(data, begun), 0, FIRST)[0]
    undisturbed = [course.losses for course in on_workers(2, train_all, recipes_in(data, tmp_path / "none"), LAST)[0]]
    for workers in (1, 3, 4):
        storage = tmp_path / f"2-{workers}-2"
        shutil.copytree(begun, storage)
        second = on_workers(workers, go_on, recipes_in(data, storage), FIRST, SECOND)[0]
        third = on_workers(2, go_on, recipes_in(data, storage), SECOND, LAST)[0]
        for stage, whole, *parts in zip(STAGES, undisturbed, first, second, third, strict=True):
            joined = [loss for part in parts for loss in part]
            assert joined == pytest.approx(whole, rel=1e-5), f"ZeRO {stage}, 2 -> {workers} -> 2 workers"
