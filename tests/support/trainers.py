"""What tests run on worker processes: trainers without Ray around them."""

from collections.abc import Sequence
from typing import NamedTuple

from distributed.config import AlignmentRecipe, Recipe
from distributed.loop import Trainer
from distributed.tasks import alignment_task, load_task
from distributed.train import prepare
from models.data.alignment_set import load_examples
from models.neumatch.samples import Preprocessors


class Course(NamedTuple):
    """What a run did. Numbers only: a tensor would die with the process that it comes from."""

    losses: list[float]
    """Of each step."""
    norms: list[list[list[float]]]
    """Of each step, (layers, 2): of the weights before it and of their gradients."""
    samples: int
    """In the training split."""


def new_trainer(recipe: Recipe) -> Trainer:
    """This worker's trainer, from the run's newest checkpoint if there is one."""
    if not isinstance(recipe, AlignmentRecipe):
        return Trainer(recipe, load_task(recipe))
    examples = load_examples(recipe.data)
    width = recipe.model.width if recipe.model.name == "neumatch" and recipe.model.projection == "rp" else None
    return Trainer(recipe, alignment_task(recipe, examples, Preprocessors.fit(examples["train"], width, recipe.seed)))


def run_to(trainer: Trainer, step: int) -> Course:
    """Trains until `step` steps are done, as `distributed.loop.run` does; what this call alone added."""
    course = Course([], [], len(trainer.task))
    while trainer.state.step < step:
        loss, encoded = trainer.train_step()
        course.losses.append(loss)
        if trainer.engine.lars.norms is not None:
            course.norms.append(trainer.engine.lars.norms.tolist())
        if trainer.state.batch == trainer.batches:
            trainer.epoch_figures(encoded)
    return course


def undisturbed(recipe: Recipe) -> list[float]:
    """The losses of all steps of a fresh run."""
    trainer = new_trainer(recipe)
    return run_to(trainer, trainer.total_steps).losses


def train_all(recipes: Sequence[Recipe], steps: int) -> list[Course]:
    """One fresh run after another of `steps` steps each."""
    return [run_to(new_trainer(recipe), steps) for recipe in recipes]


def train_and_save(recipe: Recipe, save_after: Sequence[int], steps: int) -> Course:
    """A run of `steps` steps whose folder is as `distributed.train` leaves it, with checkpoints after some of them.

    The last of `save_after` but one counts as the best on validation.
    """
    trainer = new_trainer(recipe)
    if trainer.rank == 0:
        prepare(recipe)
    course = Course([], [], len(trainer.task))
    for number, at in enumerate(save_after):
        course.losses.extend(run_to(trainer, at).losses)
        if number == max(0, len(save_after) - 2):
            trainer.state.figures = trainer.evaluate()
            trainer.state.best, trainer.state.best_step = (
                sum(trainer.state.figures.values()) / len(trainer.state.figures),
                at,
            )
        trainer.save()
    course.losses.extend(run_to(trainer, steps).losses)
    return course
