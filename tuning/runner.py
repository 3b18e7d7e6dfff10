"""Runs the trials of a sweep under Ray Tune, until all that the budget allows are over; the journal is what remains."""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.search import Searcher

from distributed.capacity import Capacity
from distributed.config import Recipe
from distributed.recipe_file import load_recipe
from distributed.train import prepare, start_ray
from models.errors import UserError
from tuning.config import SweepConfig, overrides_of
from tuning.journal import Journal, Propose
from tuning.records import Record, sign
from tuning.schedulers import scheduler_of
from tuning.trial import Trial

RECIPE = "recipe.yaml"
"""The base recipe as the sweep began with it, in its folder."""
HOST = {"memory": 1.0}
"""A byte: Tune must reserve something for a trial's process, and the CPUs belong to the trial's workers."""


class Watcher(Protocol):
    """Whoever wants to see how a sweep goes."""

    def update(self, records: list[Record]) -> None:
        """Something has happened."""
        ...


class Runner:
    """One session of a sweep."""

    def __init__(self, config: SweepConfig, journal: Journal, trials: int, propose: Propose, watcher: Watcher) -> None:
        """`trials`: how many there may be in all; `propose`: their values."""
        self.config, self.journal, self.trials, self.propose, self.watcher = config, journal, trials, propose, watcher
        self.began = time.monotonic()
        self.base = load_recipe(config.folder / RECIPE, [f"storage={config.folder}"], Recipe)
        self.concurrent = 1
        self.halted = False
        """Whether the time is up, or the user has interrupted: what still runs is to be gone on with."""
        self.starts: dict[int, float] = {}

    def run(self) -> bool:
        """Runs what is left -> whether all trials are over.

        Raises:
            UserError: the cluster can never hold a trial, or the data is wrong.
        """
        self.watcher.update(self.records())
        if not self.unfinished():
            return True
        start_ray(show_workers=False)
        capacity = Capacity.of_cluster()
        capacity.check(self.base)
        self.journal.machine = str(capacity)
        self.concurrent = concurrent_trials(capacity, self.base, self.config.budget.concurrent)
        if not self.journal.waiting and not len(self.journal):
            self._check_data()
        _configure_tune()
        tuner = tune.Tuner(
            tune.with_resources(Trial, HOST),
            tune_config=tune.TuneConfig(
                search_alg=_Proposals(self),
                scheduler=scheduler_of(self.config, self.base, self.records(), self.changed),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: self.name(trial.config["number"]),
                trial_dirname_creator=lambda trial: self.name(trial.config["number"]),
            ),
            run_config=tune.RunConfig(
                name=f"session-{time.strftime('%Y%m%d-%H%M%S')}",
                storage_path=str(self.config.folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=self.config.budget.retries),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=3),  # what a population copies from
                stop=_Halt(self),
                callbacks=[_Recorder(self)],
                verbose=0,
            ),
        )
        tuner.fit()
        self.watcher.update(self.records())
        return not self.unfinished()

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune pickles whatever it holds into snapshots of its own, from which nothing is ever restored here."""
        return (type(None), ())

    def unfinished(self) -> int:
        """Trials that are still to be run to their ends."""
        records = self.records()
        return self.trials - sum(record.state != "running" for record in records)

    def name(self, number: int) -> str:
        """Of a trial's run."""
        return f"{self.config.name}-{number:04d}"

    def records(self) -> list[Record]:
        """All trials so far."""
        return self.journal.records(self.name)

    def recipe(self, number: int, values: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial. Raises UserError for values that do not go together."""
        folder = self.config.folder
        places = [f"storage={folder}", f"name={self.name(number)}"]
        return load_recipe(folder / RECIPE, [*overrides_of(values), *places], Recipe)

    def tune_config(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial's process is told. Raises UserError for values that do not go together."""
        record = self.records()[number]
        return {
            "number": number,
            "values": dict(values),
            "generation": self.journal.generation(number),
            "recipe": self.recipe(number, values).model_dump_json(),
            "metric": self.config.metric,
            "sign": sign(self.config.mode),
            "seen": max((epoch for epoch, _ in record.course), default=0),
            "keep": self.config.searcher.name == "pbt",
            "folder": str(Path.cwd()),
        }

    def changed(self, number: int, values: dict[str, Any], since: int) -> dict[str, Any]:
        """Writes down that a trial goes on under other values, from another's weights -> its new Tune configuration."""
        self.journal.change(number, values, self.journal.generation(number) + 1, since)
        return self.tune_config(number, values)

    def time_is_up(self) -> bool:
        """Whether the budget's hours, of this session, are over."""
        hours = self.config.budget.hours
        return hours is not None and time.monotonic() - self.began > hours * 3600

    def _check_data(self) -> None:
        """Reads the data as the base recipe has it, and makes what all trials share, such as embedded sentences."""
        check = self.base.model_copy(update={"name": "check"})
        try:
            prepare(check)
        finally:
            shutil.rmtree(check.folder, ignore_errors=True)


class _Proposals(Searcher):
    """Hands Tune the journal's next trial whenever there is room for one."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(metric="value", mode="max")
        self.runner = runner
        self.live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        runner = self.runner
        if runner.time_is_up():
            return Searcher.FINISHED
        if len(self.live) >= runner.concurrent:
            return None
        while (asked := runner.journal.ask(runner.trials, runner.propose)) is not None:
            number, values = asked
            try:
                config = runner.tune_config(number, values)
            except UserError as error:  # values that each are right, but not together
                runner.journal.end(number, "failed", str(error))
                continue
            self.live.add(trial_id)
            return config
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The journal has it from the recorder."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """There is nothing that the journal does not have."""

    def restore(self, checkpoint_path: str) -> None:
        """Likewise."""


class _Recorder(tune.Callback):
    """Writes into the journal what Tune tells."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.runner.starts.setdefault(trial.config["number"], time.monotonic())
        self._tell()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["number"]
        if "value" in result:
            value, figures = sign(self.runner.config.mode) * result["value"], json.loads(result["figures"])
            self.runner.journal.result(number, result["epoch"], value, figures, self._seconds(number))
        self._tell()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.runner.halted:
            return
        number, last = trial.config["number"], trial.last_result or {}
        seconds = self._seconds(number)
        if "failed" in last:
            self.runner.journal.end(number, "failed", str(last["failed"]), seconds)
        elif last.get("ended"):
            self.runner.journal.end(number, "finished", seconds=seconds)
        else:
            self.runner.journal.end(number, "stopped", f"stopped after epoch {last.get('epoch')}", seconds)
        self._tell()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self.runner.journal.end(number, "failed", _reason(trial), self._seconds(number))
        self._tell()

    def _seconds(self, number: int) -> float:
        return time.monotonic() - self.runner.starts.get(number, time.monotonic())

    def _tell(self) -> None:
        self.runner.watcher.update(self.runner.records())


class _Halt(tune.Stopper):
    """Ends a session whose time is up."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.runner.time_is_up():
            self.runner.halted = True
        return self.runner.halted


def concurrent_trials(capacity: Capacity, base: Recipe, wanted: int | None) -> int:
    """How many trials run at a time: as many as fit, or fewer that are wanted.

    Raises:
        UserError: the cluster grows as it is asked to, and nobody has said how far.
    """
    if capacity.grows:
        if wanted is None:
            raise UserError(
                "budget.concurrent: this cluster starts nodes when they are asked for; say how many trials may run at "
                "a time"
            )
        return wanted
    fitting = capacity.holds(capacity.worker(base)) // base.scaling.workers
    return min(wanted or fitting, fitting)


def _reason(trial: Any) -> str:
    """The last line of what a trial died of."""
    path = getattr(trial, "error_file", None)
    text = Path(path).read_text(encoding="utf-8", errors="replace") if path and Path(path).exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "its process died"


def _configure_tune() -> None:
    """The journal is the record, and the table on the screen is ours."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    )
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.ERROR)
