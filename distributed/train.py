"""Trains a recipe on Ray.

    python -m distributed.train RECIPE [key=value ...]

Checks everything that can be checked, then launches. The same command again continues the run of that name.
"""

import argparse
import logging
import os
import shlex
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from distributed import checkpoint, fetch
from distributed.command import main_of
from distributed.config import Recipe
from distributed.loop import STOP, train_worker
from distributed.progress import short
from distributed.recipe_file import dump_recipe, load_recipe
from distributed.storage import PREPROCESSING
from distributed.tasks import prepare_task
from models.data.files import atomic_path
from models.errors import UserError


def prepare(recipe: Recipe) -> None:
    """Reads and checks all data, fits the preprocessing, and writes what the workers need into the run's folder.

    Raises:
        UserError: for whatever is wrong, before anything is launched.
    """
    mirror = recipe.mirror
    if mirror is not None:
        mirror.check()
        mirror.pull(PREPROCESSING)
    found = fetch.newest(recipe.folder, mirror, warn=False, look=True)
    if found is not None:
        checkpoint.check_recipe(found, recipe.trajectory(), mirror.uri if mirror is not None else "")
    prepare_task(recipe, begun=found is not None)
    (recipe.folder / STOP).unlink(missing_ok=True)
    with atomic_path(recipe.folder / "recipe.yaml") as temporary:
        temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    if mirror is not None:
        mirror.delete(STOP)
        mirror.push(*(path for name in ("recipe.yaml", PREPROCESSING) if (path := recipe.folder / name).exists()))


def launch(recipe: Recipe) -> dict[str, Any]:
    """Runs the recipe under Ray Train -> the last figures. Joins the cluster at RAY_ADDRESS, or starts a local one.

    Raises:
        UserError: the cluster can never hold the workers, or a worker found a mistake.
    """
    # Ray would otherwise show every printed line twice: as output and as a log record.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # How often Ray looks at its workers: a run's end is noticed that much later.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    start_ray()
    scaling, nodes = recipe.scaling, nodes_of_cluster()
    resources = resources_of_worker(recipe, nodes)
    gpus = resources.get("GPU", 0.0)
    check_capacity(recipe, nodes)
    trainer = TorchTrainer(
        cast(Callable[[dict[str, Any]], None], train_worker),  # what it returns comes back as `return_value`
        train_loop_config={"recipe": recipe.model_dump_json(), "folder": str(Path.cwd())},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=scaling.collective_timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=recipe.name,
            storage_path=str(recipe.folder.parent),  # Ray leaves a marker there; checkpoints are our own
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
        ),
    )
    figures: dict[str, Any] = getattr(trainer.fit(), "return_value", None) or {}
    if "error" in figures:
        raise UserError(figures["error"])
    return figures


def start_ray(show_workers: bool = True) -> None:
    """Joins the cluster at RAY_ADDRESS, or starts a local one. `show_workers`: what they print is seen here."""
    import ray

    os.environ["PATH"] = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"  # DeepSpeed: ninja
    if not ray.is_initialized():
        ray.init(log_to_driver=show_workers, logging_level=logging.WARNING, runtime_env=_runtime_environment())


def _runtime_environment() -> dict[str, Any] | None:
    """What workers of a cluster that runs already need to see of this process's environment.

    Workers of a local cluster inherit it, and so do those of a submitted job.
    """
    if not os.environ.get("RAY_ADDRESS") or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    names = ["MELTMATCH_DATA", "MELTMATCH_CACHE", "WANDB_MODE", "WANDB_BASE_URL", "HF_HUB_OFFLINE"]
    # Where a storage's server is; never its keys, which Ray would show to whoever sees its dashboard.
    names += ["AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]
    return {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}


Nodes = Sequence[Mapping[str, float]]
"""What each node of a cluster has."""


def nodes_of_cluster() -> Nodes:
    """The nodes that this process's cluster has, or with an autoscaler can ever have."""
    import ray
    from ray._private.state import state

    nodes: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    config = state.get_cluster_config()
    if config is not None:
        for group in config.node_group_configs:
            have = sum(all(node.get(name) == amount for name, amount in group.resources.items()) for node in nodes)
            nodes += [dict(group.resources)] * max(0, group.max_count - have)
    return nodes


def resources_of_worker(recipe: Recipe, nodes: Nodes) -> dict[str, float]:
    """What Ray reserves for one worker of a run."""
    gpus = recipe.scaling.gpus_per_worker
    if gpus is None:
        gpus = float(sum(node.get("GPU", 0.0) for node in nodes) >= recipe.scaling.workers)
    return {"CPU": recipe.scaling.cpus_per_worker} | ({"GPU": gpus} if gpus else {})


def workers_that_fit(resources: Mapping[str, float], nodes: Nodes) -> int:
    """How many workers an empty cluster holds; a worker is on one node."""
    return sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in resources.items()) for node in nodes)


def check_capacity(recipe: Recipe, nodes: Nodes) -> None:
    """Raises UserError where the cluster can never hold a run's workers, for which Ray would wait for ever."""
    workers, resources = recipe.scaling.workers, resources_of_worker(recipe, nodes)
    for name, each in resources.items():
        there = sum(node.get(name, 0.0) for node in nodes)
        if workers * each > there + 1e-6:
            raise UserError(
                f"scaling asks for {workers * each:g} {name}s ({workers} workers), but this cluster has {there:g}; "
                f"lower scaling.workers or scaling.{name.lower()}s_per_worker"
            )
    if (fitting := workers_that_fit(resources, nodes)) < workers:
        taken = " and ".join(f"{amount:g} {name}s" for name, amount in resources.items())
        raise UserError(
            f"scaling.workers={workers} with {taken} each: the {len(nodes)} nodes of this cluster hold {fitting} such "
            "workers, for a worker cannot be spread over nodes; lower scaling.workers or what each takes"
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
    print(f"finished {recipe.name}: " + ", ".join(f"{k} {short(v)}" for k, v in figures.items()))
    print(f"run folder: {recipe.place}\nscore it:   python -m distributed.evaluate {shlex.quote(str(recipe.place))}")


if __name__ == "__main__":
    main_of(train)
