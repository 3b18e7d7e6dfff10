"""Small runs with a learned loss: digits into classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed.config import ClassificationRecipe
from tests.support.small_runs import changed


def digits_values(storage: Path | str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a YAML file has it; `changes` are by dotted key."""
    values: dict[str, Any] = {
        "name": "digits",
        "task": "classification",
        "storage": str(storage),
        "data": {"name": "digits"},
        "model": {"name": "resnet", "depth": 8, "widths": [4, 8, 16]},
        "combiner": {
            "name": "meltr",
            "network": {"width": 16, "feed_forward": 16, "value_hidden": 8},
            "inner_steps": 2,
            "rate": 0.01,
        },
        "optimiser": {"name": "adam", "eta": 0.001},
        "training": {"epochs": 1, "batch_size": 24, "evaluate_every": 1, "log_every": 1},
        "tracking": {"wandb": "disabled"},
    }
    return changed(values, changes)


def digits_recipe(storage: Path | str, changes: Mapping[str, Any] | None = None) -> ClassificationRecipe:
    """The same, checked."""
    return ClassificationRecipe.model_validate(digits_values(storage, changes or {}), strict=False)
