"""Trains a recipe on Ray.

    python -m distributed.train RECIPE [key=value ...]

Checks everything that can be checked, then launches. The same command again continues the run of that name.
"""

import argparse
import logging
import os
import shlex
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from distributed import checkpoint, fetch
from distributed.alone import board_of, check_alone
from distributed.capacity import Capacity
from distributed.command import main_of
from distributed.config import Recipe
from distributed.loop import train_worker
from distributed.progress import short
from distributed.recipe_file import dump_recipe, load_recipe
from distributed.reservation import free_reservation
from distributed.signals import SAVE, STOP, ask, withdraw
from distributed.storage import PREPROCESSING
from distributed.tasks import prepare_task
from models.data.files import atomic_path, check_writable
from models.errors import UserError

STOPPED = 143
"""The exit code of a run that was asked to stop: that of a process ended by SIGTERM."""


def prepare(recipe: Recipe) -> None:
    """Reads and checks all data, fits the preprocessing, and writes what the workers need into the run's folder.

    Raises:
        UserError: for whatever is wrong, before anything is launched.
    """
    mirror = recipe.mirror
    check_writable(recipe.folder, "name another place by storage=FOLDER")
    if mirror is not None:
        mirror.check()
    check_alone(board_of(recipe.folder, mirror), str(recipe.place))
    if mirror is not None:
        mirror.pull(PREPROCESSING)
    found = fetch.newest(recipe.folder, mirror, warn=False, look=True)
    if found is not None:
        checkpoint.check_recipe(found, recipe.trajectory(), mirror.uri if mirror is not None else "")
    prepare_task(recipe, begun=found is not None)
    for name in (STOP, SAVE):
        withdraw(recipe.folder, mirror, name)
    with atomic_path(recipe.folder / "recipe.yaml") as temporary:
        temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    if mirror is not None:
        mirror.push(*(path for name in ("recipe.yaml", PREPROCESSING) if (path := recipe.folder / name).exists()))


def launch(recipe: Recipe) -> dict[str, Any]:
    """Runs the recipe under Ray Train -> the last figures. Joins the cluster at RAY_ADDRESS, or starts a local one.

    Raises:
        UserError: the cluster can never hold the workers, or a worker found a mistake.
        ray.train.TrainingFailedError, ray.exceptions.RayError: workers, or the process that looks after them, died more
            often in a row than the recipe lets them.
    """
    _settings(recipe)
    import ray.train
    from ray.exceptions import OutOfMemoryError, RayActorError

    start_ray()
    capacity = Capacity.of_cluster()
    capacity.check(recipe)
    resources = capacity.worker(recipe)
    free_reservation(recipe.folder)
    in_a_row = 0
    while True:
        reached = _newest_step(recipe)
        try:
            figures: dict[str, Any] = getattr(_trainer(recipe, resources).fit(), "return_value", None) or {}
            break
        except (ray.train.TrainingFailedError, RayActorError, OutOfMemoryError) as error:
            # Ray counts all failures of a run; those that it went on from are no reason to give it up. And it does not
            # try again at all where a worker dies while the group is being made, or its own controller does.
            in_a_row = 0 if _newest_step(recipe) > reached else in_a_row + 1
            if in_a_row > (0 if isinstance(error, ray.train.WorkerGroupError) else recipe.scaling.max_failures):
                raise
            print(f"the workers died, and so did Ray's attempt: the run starts again ({_line_of(error)})", flush=True)
    if "error" in figures:
        raise UserError(figures["error"])
    return figures


def _settings(recipe: Recipe) -> None:
    """What Ray Train reads from the environment."""
    # Ray would otherwise show every printed line twice: as output and as a log record.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # How often Ray looks at its workers: a run's end is noticed that much later.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray's own barrier, at which workers report, would wait for ever for one that hangs.
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(recipe.scaling.collective_timeout_s))
    if recipe.scaling.min_workers is not None:
        # An elastic group may be planned on a node that has just died; until Ray sees that, it waits for that long.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")


def _line_of(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Training failed")]
    return lines[0] if lines else type(error).__name__


def _newest_step(recipe: Recipe) -> int:
    found = fetch.newest(recipe.folder, recipe.mirror, warn=False, look=True)
    return -1 if found is None else found.step


def _trainer(recipe: Recipe, resources: Mapping[str, float]) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from distributed.elastic import Elastic

    scaling, gpus = recipe.scaling, resources.get("GPU", 0.0)
    elastic = scaling.min_workers is not None and scaling.min_workers < scaling.workers
    return TorchTrainer(
        cast(Callable[[dict[str, Any]], None], train_worker),  # what it returns comes back as `return_value`
        train_loop_config={"recipe": recipe.model_dump_json(), "folder": str(Path.cwd())},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=scaling.collective_timeout_s),
        scaling_config=cast(Any, ray.train.ScalingConfig)(  # typed as it was before it became elastic
            num_workers=(scaling.min_workers or 1, scaling.workers) if elastic else scaling.workers,
            use_gpu=gpus > 0,
            resources_per_worker=dict(resources),
            elastic_resize_monitor_interval_s=scaling.resize_interval_s,
        ),
        run_config=ray.train.RunConfig(
            name=recipe.name,
            storage_path=str(recipe.folder.parent),  # Ray leaves a marker there; checkpoints are our own
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
            callbacks=cast(Any, [Elastic(recipe.folder, recipe.mirror, scaling.resize_interval_s)] if elastic else []),
        ),
    )


@contextmanager
def stopping_when_asked(recipe: Recipe) -> Iterator[None]:
    """Within, SIGTERM (`ray job stop`, a shutdown) ends the run after its step, with a checkpoint. A second one does
    what it did before."""
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        ask(recipe.folder, recipe.mirror, STOP)
        print("asked to stop: the run ends after its step, with a checkpoint", flush=True)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


def train(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.train", description="Train a recipe on Ray.")
    parser.add_argument("recipe", type=Path, help="a YAML file, or the name of one in distributed/recipes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optimiser.eta=0.01 scaling.workers=4")
    options = parser.parse_args(arguments)
    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    prepare(recipe)
    start_ray()
    with stopping_when_asked(recipe):  # after Ray, which has a handler of its own
        figures = launch(recipe)
    if figures.get("stopped"):
        print(f"stopped {recipe.name} at step {figures['step']}, with a checkpoint; the same command goes on")
        sys.exit(STOPPED)
    print(f"finished {recipe.name}: " + ", ".join(f"{k} {short(v)}" for k, v in figures.items()))
    print(f"run folder: {recipe.place}\nscore it:   python -m distributed.evaluate {shlex.quote(str(recipe.place))}")


if __name__ == "__main__":
    main_of(train)
