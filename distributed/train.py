"""Trains a recipe on Ray.

    python -m distributed.train RECIPE [key=value ...]

Checks everything that can be checked, then launches. The same command again continues the run of that name.
"""

import argparse
import logging
import os
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from distributed import checkpoint
from distributed.command import main_of
from distributed.config import Recipe
from distributed.loop import train_worker
from distributed.recipe_file import dump_recipe, load_recipe
from distributed.tasks import prepare_task
from models.data.files import atomic_path
from models.errors import UserError


def prepare(recipe: Recipe) -> None:
    """Reads and checks all data, fits the preprocessing, and writes what the workers need into the run's folder.

    Raises:
        UserError: for whatever is wrong, before anything is launched.
    """
    found = checkpoint.newest(recipe.folder, warn=False)
    if found is not None:
        checkpoint.check_recipe(found, recipe.trajectory())
    prepare_task(recipe, begun=found is not None)
    with atomic_path(recipe.folder / "recipe.yaml") as temporary:
        temporary.write_text(dump_recipe(recipe), encoding="utf-8")


def launch(recipe: Recipe) -> dict[str, Any]:
    """Runs the recipe under Ray Train -> the last figures. Joins the cluster at RAY_ADDRESS, or starts a local one.

    Raises:
        UserError: the cluster can never hold the workers, or a worker found a mistake.
    """
    # Ray would otherwise show every printed line twice: as output and as a log record.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ["PATH"] = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"  # DeepSpeed: ninja
    if not ray.is_initialized():
        ray.init(log_to_driver=True, logging_level=logging.WARNING, runtime_env=_runtime_environment())
    scaling, cluster = recipe.scaling, ray.cluster_resources()
    gpus = scaling.gpus_per_worker
    if gpus is None:
        gpus = float(cluster.get("GPU", 0) >= scaling.workers)
    _check_capacity(cluster, scaling.workers, scaling.cpus_per_worker, gpus)
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    trainer = TorchTrainer(
        cast(Callable[[dict[str, Any]], None], train_worker),  # what it returns comes back as `return_value`
        train_loop_config={"recipe": recipe.model_dump_json(), "folder": str(Path.cwd())},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=scaling.collective_timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=recipe.name,
            storage_path=str(recipe.storage.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
        ),
    )
    figures: dict[str, Any] = getattr(trainer.fit(), "return_value", None) or {}
    if "error" in figures:
        raise UserError(figures["error"])
    return figures


def _runtime_environment() -> dict[str, Any] | None:
    """What workers of a cluster that runs already need to see of this process's environment.

    Workers of a local cluster inherit it, and so do those of a submitted job.
    """
    if not os.environ.get("RAY_ADDRESS") or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    names = ("MELTMATCH_DATA", "WANDB_MODE", "WANDB_BASE_URL", "HF_HUB_OFFLINE")
    return {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}


def _check_capacity(cluster: Mapping[str, float], workers: int, cpus: float, gpus: float) -> None:
    for name, wanted in (("CPU", workers * cpus), ("GPU", workers * gpus)):
        if wanted > cluster.get(name, 0.0):
            raise UserError(
                f"scaling asks for {wanted:g} {name}s ({workers} workers), but this cluster has "
                f"{cluster.get(name, 0.0):g}; lower scaling.workers or scaling.{name.lower()}s_per_worker"
            )


def train(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.train", description="Train a recipe on Ray.")
    parser.add_argument("recipe", type=Path, help="a YAML file, or the name of one in distributed/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optimiser.eta=0.01 scaling.workers=4")
    options = parser.parse_args(arguments)
    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    prepare(recipe)
    figures = launch(recipe)
    print(f"finished {recipe.name}: " + ", ".join(f"{k} {_short(v)}" for k, v in figures.items()))
    print(f"run folder: {recipe.folder}\nscore it:   python -m distributed.evaluate {recipe.folder}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main_of(train)
