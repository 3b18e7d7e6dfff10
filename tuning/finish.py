"""The end of a sweep's session: files, pictures, page, the best against the base recipe, and W&B's summary."""

from collections.abc import Mapping

from distributed.config import Recipe
from distributed.evaluate import scores_of, task_of_run
from distributed.export import checkpoint_of
from models.errors import UserError
from tuning.config import SweepConfig
from tuning.records import Record, best_of
from tuning.results import write_best, write_csv
from tuning.runner import Runner

Scores = Mapping[str, Mapping[str, float]]
"""By split and name."""


def finish(config: SweepConfig, runner: Runner) -> None:
    """Writes everything; what has been written before is replaced."""
    records = runner.records()
    write_csv(config.folder / "results.csv", records, config.mode)
    best = best_of(records, config.mode)
    if best is None:
        print("no trial has a result yet")
        return
    write_best(
        config.folder / "best.yaml", records, config.mode, runner.recipe(best.number, best.values), config.metric
    )


def held_out(runner: Runner, record: Record) -> Scores:
    """A trial's best checkpoint on the validation and test splits."""
    recipe: Recipe = runner.recipe(record.number, record.values)
    task, chosen = task_of_run(recipe), checkpoint_of(recipe.folder, "best")
    scores = {}
    for split in ("validation", "test"):
        try:
            scores[split] = scores_of(task, chosen, split)
        except UserError:  # an empty split
            continue
    return scores
