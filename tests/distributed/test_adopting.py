"""A run takes over another's checkpoint: the same weights and moments, under a recipe of its own."""

import shutil
from pathlib import Path

import pytest

from distributed import checkpoint
from distributed.config import Recipe
from models.errors import UserError
from tests.support.small_runs import small_recipe
from tests.support.trainers import Course, new_trainer, run_to, train_and_save
from tests.support.workers import on_workers

STEPS = 9


@pytest.fixture(scope="module")
def donor(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest checkpoint of a run, after 6 steps; that after 3 is its best."""
    recipe = small_recipe(data, tmp_path_factory.mktemp("donor"), {"training.epochs": 9})
    on_workers(1, train_and_save, recipe, [3, 6], 6)
    return checkpoint.folder_of(recipe.folder, 6)


def under_another_rate(recipe: Recipe, steps: int) -> Course:
    """Goes on from the run's checkpoint, by telling a trainer of it another rate."""
    trainer = new_trainer(recipe)
    optimiser = recipe.optimiser.model_copy(update={"eta": 2e-3})
    trainer.recipe = recipe.model_copy(update={"optimiser": optimiser})
    return run_to(trainer, steps)


def resumed(recipe: Recipe, steps: int) -> tuple[list[float], float | None, int | None]:
    trainer = new_trainer(recipe)
    best = trainer.state.best, trainer.state.best_step
    return run_to(trainer, steps).losses, *best


def test_goes_on_from_the_others_weights_at_its_own_rate(data: Path, donor: Path, tmp_path: Path) -> None:
    receiver = small_recipe(data, tmp_path / "receiver", {"training.epochs": 9, "optimiser.eta": 2e-3})
    on_workers(1, train_and_save, receiver, [3], 3)
    checkpoint.adopt(donor, receiver.folder, receiver.trajectory())
    assert [folder.name for folder in checkpoint.candidates(receiver.folder)] == ["step-00000006"]
    losses, best, best_step = on_workers(2, resumed, receiver, STEPS)[0]
    assert (best, best_step) == (None, None)  # the other's best is not here
    copy = small_recipe(data, tmp_path / "copy", {"training.epochs": 9})
    shutil.copytree(donor.parents[1], copy.folder)
    assert losses == pytest.approx(on_workers(1, under_another_rate, copy, STEPS)[0].losses, rel=1e-5)


def test_a_damaged_one_is_refused_and_nothing_is_lost(data: Path, donor: Path, tmp_path: Path) -> None:
    receiver = small_recipe(data, tmp_path, {"training.epochs": 9})
    on_workers(1, train_and_save, receiver, [3], 3)
    damaged = Path(shutil.copytree(donor, tmp_path / "step-00000006"))
    next(damaged.glob("shard-*")).write_bytes(b"")
    with pytest.raises(UserError, match=r"shard-00000\.safetensors: truncated or changed: 0 bytes"):
        checkpoint.adopt(damaged, receiver.folder, receiver.trajectory())
    found = checkpoint.newest(receiver.folder)
    assert found is not None
    assert found.step == 3
