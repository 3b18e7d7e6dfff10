"""Small generated data and recipes that train in a blink, for every test of the distributed room."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distributed.config import AlignmentRecipe
from models.data.features import write_features
from models.data.synthetic import generate_movies
from models.data.yms import read_yms

WIDTH = 16
TEXT_FEATURES = "text_features.npz"


def small_data(folder: Path, movies: int = 8, width: int = 32) -> Path:
    """Writes generated movies with clip features of `width` into `folder`.

    They have text features of their own, so that no sentence encoder runs.
    """
    generate_movies(folder, movies, seed=5, width=width)
    snippets = [snippet for movie in read_yms(folder).values() for snippet in movie.snippets]
    # Like a sentence embedding: the same for the same text.
    seeds = [zlib.crc32(snippet.text.encode()) for snippet in snippets]
    rows = [torch.randn(24, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    write_features(folder / TEXT_FEATURES, [snippet.id for snippet in snippets], torch.stack(rows))
    return folder


def elastic(interval: int, steps: int) -> dict[str, Any]:
    """Changes that make the recipe of `small_data`, at three batches an epoch, an elastic run of 1 to 2 workers with a
    checkpoint every `interval` steps, whose numbers stay the same to 1e-5 over a few hundred steps."""
    return {
        "model.width": 64,
        "optimiser.eta": 0.0002,  # at larger rates rounding is amplified to more than 1e-5
        "training.epochs": steps // 3,
        "training.evaluate_every": steps // 3,
        "checkpoint.every_steps": interval,
        "checkpoint.every_epochs": steps,
        "scaling.workers": 2,
        "scaling.min_workers": 1,
    }


def recipe_values(data: Path, storage: Path | str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a YAML file has it; `changes` are by dotted key."""
    values: dict[str, Any] = {
        "name": "run",
        "task": "alignment",
        "storage": str(storage),
        "data": {
            "root": str(data),
            "annotations": ".",
            "clip_features": "clip_features.npz",
            "text_features": TEXT_FEATURES,
            "longest": 16,
        },
        "model": {"name": "neumatch", "width": WIDTH},
        "optimiser": {"eta": 0.001},
        "training": {"epochs": 2, "batch_size": 8, "evaluate_every": 1, "log_every": 1},
        "checkpoint": {"every_epochs": 1},
        "tracking": {"wandb": "disabled"},
    }
    return changed(values, changes)


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes` by dotted key."""
    for key, value in changes.items():
        *path, last = key.split(".")
        at = values
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return values


def small_recipe(data: Path, storage: Path | str, changes: Mapping[str, Any] | None = None) -> AlignmentRecipe:
    """The recipe of a tiny network on `small_data` below `data`."""
    return AlignmentRecipe.model_validate(recipe_values(data, storage, changes or {}), strict=False)
