"""What a finished run scores on validation and test, computed once and kept in its folder."""

import json
from collections.abc import Sequence

from distributed.config import Recipe
from distributed.evaluate import scores_of
from distributed.exported import checkpoint_of
from distributed.tasks import task_of_run
from models.data.files import atomic_path
from models.errors import UserError

SPLITS = ("validation", "test")


def scores_of_run(recipe: Recipe, which: str, splits: Sequence[str] = SPLITS) -> dict[str, float]:
    """`SPLIT/NAME` -> score of a run's best or last checkpoint; nothing for a split that is empty.

    Raises:
        UserError: the run has no such checkpoint, or its data cannot be read.
    """
    chosen = checkpoint_of(recipe.folder, which)
    path = recipe.folder / f"scores-step-{chosen.step}.json"
    found: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if missing := [split for split in splits if split not in found]:
        task = task_of_run(recipe)
        for split in missing:
            try:
                found[split] = scores_of(task, chosen, split)
            except UserError:  # an empty split
                found[split] = {}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return {f"{split}/{name}": value for split in splits for name, value in found[split].items()}
