"""A trial: a Ray Train run of its own, as Ray Tune sees it.

Tune keeps the process of a trial and gives it the next one, so that only the workers start anew. Results are read from
the run's metrics.jsonl, which is complete whatever happens; the run is ended by asking it to stop, so that its workers,
its placement group and its W&B run end in order.
"""

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from ray import tune

from distributed import checkpoint, job_environment
from distributed.config import Recipe, recipe_from_json
from distributed.metrics_file import MetricsTail
from distributed.signals import STOP
from distributed.train import launch, prepare
from models.errors import UserError

POLL_S = 0.2
ENDING_S = 120.0
"""How long a run that was asked to stop may take: a step, a checkpoint, W&B's farewell."""


class Attempt(threading.Thread):
    """A Ray Train run in the background."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(daemon=True)
        self.recipe = recipe
        self.mistake = ""
        """Of the user: to be told, not tried again."""
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            launch(self.recipe)
        except UserError as error:
            self.mistake = str(error)
        except BaseException as error:
            self.error = error


class Trial(tune.Trainable):
    """Runs the recipe in `config["recipe"]`; a step is one evaluation.

    A result has `epoch`, `value` (the metric, more is better), `figures` (all, as JSON) and `ended`, whether it is the
    last; with `failed`, the reason, it is the last too. What is wrong with the recipe or its data, or a loss that is
    not finite, is such a reason; whatever else goes wrong raises, and Tune starts the trial again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        job_environment.load()
        if Path(config["folder"]).is_dir():
            os.chdir(config["folder"])  # where relative paths of the recipe begin; Tune has moved elsewhere
        # A process for each run that watches for nodes about to be taken away: a trial on one is tried again anyhow.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        self.recipe = recipe_from_json(config["recipe"])
        self.metrics = MetricsTail(self.recipe.folder / "metrics.jsonl")
        self.generation = int(config["generation"])
        self.seen = int(config["seen"])
        """The last epoch that was told."""
        self.metric, self.sign = str(config["metric"]), int(config["sign"])
        self.keep = bool(config["keep"])
        """Whether others may go on from this trial's checkpoints."""
        self.mistake = ""
        self.attempt: Attempt | None = None

    def step(self) -> dict[str, Any]:
        if self.attempt is None and not self._begin():
            return {"done": True, "failed": self.mistake}
        while True:
            alive = self.attempt is not None and self.attempt.is_alive()  # first: what it wrote last is not missed
            record = self._next()
            if record is not None:
                last = record["epoch"] >= self.recipe.training.epochs
                if not alive or not (last or (self.keep and not self._saved(record["step"]))):
                    self.seen = record["epoch"]
                    return self._result(record, last)
            elif not alive:
                break
            time.sleep(POLL_S)
        if self.attempt is not None and self.attempt.error is not None:
            raise self.attempt.error
        if self._over():
            return {"done": True, "ended": True, "epoch": self.seen}
        why = self.attempt.mistake if self.attempt is not None else ""
        return {"done": True, "failed": why or "the run ended before its last epoch"}

    def _result(self, record: dict[str, Any], last: bool) -> dict[str, Any]:
        value = record.get(self.metric)
        if not isinstance(value, int | float):
            there = ", ".join(key for key, v in record.items() if isinstance(v, int | float) and key != "time")
            why = f"is {value}" if value is not None else f"is not measured; there are {there}"
            return {"done": True, "failed": f"the metric {self.metric!r} {why}"}
        return {
            "done": last,
            "ended": last,
            "epoch": self.seen,
            "value": self.sign * value,
            "figures": json.dumps(record),
        }

    def _begin(self) -> bool:
        """Starts the run, unless an earlier session's came to its end; False for a mistake of the user."""
        try:
            self._adapt()
            prepare(self.recipe)
        except UserError as error:
            self.mistake = str(error)
            return False
        if not self._over():  # else what is left is to tell
            self.attempt = Attempt(self.recipe)
            self.attempt.start()
        return True

    def _saved(self, step: int) -> bool:
        return (checkpoint.folder_of(self.recipe.folder, step) / checkpoint.MANIFEST).exists()

    def _next(self) -> dict[str, Any] | None:
        """The first evaluation that has not been told yet."""
        records = self.metrics.records()
        return next((r for r in records if "selected" in r and r["epoch"] > self.seen), None)

    def _over(self) -> bool:
        """Whether an earlier session's run came to its end."""
        found = checkpoint.newest(self.recipe.folder, warn=False)
        return found is not None and found.manifest["progress"]["epoch"] >= self.recipe.training.epochs

    def _adapt(self) -> None:
        """Makes the run's own checkpoint one of a recipe that has changed since."""
        if not self.generation:
            return
        found = checkpoint.newest(self.recipe.folder, warn=False)
        if found is not None:
            try:
                checkpoint.check_recipe(found, self.recipe.trajectory())
            except UserError:
                checkpoint.adopt(found.folder, self.recipe.folder, self.recipe.trajectory())

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A copy of the run's newest checkpoint, which the run itself may soon delete."""
        for _ in range(5):
            found = checkpoint.newest(self.recipe.folder, warn=False)
            if found is None:
                return
            target = Path(checkpoint_dir) / found.folder.name
            try:
                shutil.copytree(found.folder, target)
                return
            except (OSError, shutil.Error):
                shutil.rmtree(target, ignore_errors=True)
        raise RuntimeError(f"{self.recipe.folder}: its checkpoints went away while they were copied")

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Goes on from another run's checkpoint, once for each generation: after a crash it is the run's own."""
        marker = self.recipe.folder / "generation"
        done = int(marker.read_text()) if marker.exists() else 0
        folders = sorted(Path(checkpoint_dir).glob("step-*"))
        if done < self.generation and folders:
            self.recipe.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.adopt(folders[-1], self.recipe.folder, self.recipe.trajectory())
            self.seen = int(checkpoint.read(folders[-1]).manifest["progress"]["epoch"])
            marker.write_text(f"{self.generation}\n")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Ends the run, if it still goes on."""
        if self.attempt is None:
            return
        stop = self.recipe.folder / STOP
        if self.attempt.is_alive():
            stop.touch()
            self.attempt.join(ENDING_S)
            if self.attempt.is_alive():
                raise RuntimeError(f"{self.recipe.folder}: did not stop within {ENDING_S:g} s")
        stop.unlink(missing_ok=True)
        self.attempt = None
