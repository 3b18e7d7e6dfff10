"""What each worker does: the training loop, from the newest checkpoint to the last epoch."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distributed import checkpoint, fetch, job_environment
from distributed.batches import Batches, Losses
from distributed.collectives import WorldCollectives, everyone, together
from distributed.combining import Combiner, Step
from distributed.config import Recipe, recipe_from_json
from distributed.engine import Engine
from distributed.exported import read_export
from distributed.liveness import Liveness, in_collective
from distributed.machine import EngineMachine
from distributed.metrics_file import read_metrics
from distributed.nodes import Nodes
from distributed.progress import Progress, duration
from distributed.reservation import note_reservation
from distributed.say import say
from distributed.signals import Asked, Signals
from distributed.tasks import load_task
from distributed.tracking import Tracker
from models.errors import UserError
from models.meltr.bilevel import MetaBatches
from models.meltr.config import MELTRConfig
from models.meltr.statistics import frozen_statistics
from models.normalisation import synchronise
from models.optim.schedule import PlateauState, after_epoch, rate_factor
from models.recompute import recompute
from models.tasks.task import Task


@dataclass
class RunState:
    """Where a run stands. All of it goes into the manifest of every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """The next global batch of the epoch."""
    plateau: PlateauState = field(default_factory=PlateauState)
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    """Of the epoch so far."""
    best: float | None = None
    best_step: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    """The newest evaluation."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "plateau": self.plateau.model_dump()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunState":
        return cls(**{**values, "plateau": PlateauState(**values["plateau"])})


class Trainer:
    """One worker's part of a run."""

    def __init__(self, recipe: Recipe, task: Task) -> None:
        """Needs an initialised torch.distributed process group."""
        self.recipe, self.task = recipe, task
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        if not len(task):
            raise UserError("the training split is empty: there is nothing to train on")
        self.mirror = recipe.mirror
        found = fetch.newest(recipe.folder, self.mirror, everyone, warn=self.rank == 0)
        torch.manual_seed(recipe.seed)  # the same initial weights on every worker
        network = task.network()
        task.drop_start()  # what is evaluated has weights of its own
        if recipe.init_from is not None:
            network.load_state_dict(read_export(recipe.init_from, recipe.model).weights)
        if found is None:
            task.pretrain(network, recipe.seed, say if self.rank == 0 else None)
        self.collectives = WorldCollectives()
        synchronise(network, self.collectives)
        if recipe.engine.activation_checkpointing:
            if not network.blocks():
                raise UserError("engine.activation_checkpointing: the network has no blocks to recompute; set false")
            recompute(network.blocks())
        micro_batches = recipe.micro_batches(self.workers)
        if task.whole_batch:
            network.micro_batches, micro_batches = micro_batches, 1
        engine = recipe.engine.model_copy(update={"accumulation": micro_batches})
        self.engine = Engine(network.to(self.device), engine, recipe.optimiser, task.component)
        self.machine = EngineMachine(self.engine)
        self.combiner = Combiner(recipe.combiner, task, recipe.seed, self.device)
        place = (self.rank, self.workers)
        names, batch_size = self.combiner.names, recipe.training.batch_size
        self.sampler = Batches(task, names, recipe.seed, batch_size, place, self.collectives, self.device)
        if isinstance(recipe.combiner, MELTRConfig) and recipe.combiner.meta_data == "held_out":
            self.sampler.hold_out(recipe.combiner.held_out_fraction)
        self.state, self.figures = RunState(), dict[str, float]()
        self.batches = self.sampler.plan.in_epoch
        parts = [task.component(name) for name in self.engine.shards.shapes]
        self.components = list(dict.fromkeys(parts))
        self.component = torch.tensor([self.components.index(part) for part in parts])
        self.norms: list[Tensor] = []
        if found is not None:
            checkpoint.check_recipe(found, recipe.trajectory())
            checkpoint.load(found, self.engine)
            self.state = RunState.from_json(found.manifest["progress"])
            self.combiner.restore(found)
        self.sampler.read_ahead(self.state.step, self.total_steps, recipe.scaling.readers_per_worker)

    @property
    def total_steps(self) -> int:
        return self.recipe.training.epochs * self.batches

    def train_step(self) -> tuple[float, Any]:
        """One optimiser step on the next global batch -> its combined loss (a mean over the global batch), and what
        the network saw. `figures` holds the step's losses and coefficients by name."""
        recipe, state, engine = self.recipe, self.state, self.engine
        batch = self.sampler.at(state.step, engine.config.accumulation)
        engine.rate = recipe.optimiser.eta * rate_factor(recipe.schedule, state.plateau, state.step, self.total_steps)
        try:
            step = self._accumulated(batch) if len(batch.parts) > 1 else self._at_once(batch)
        except FloatingPointError as error:
            raise self._diverged(str(error)) from error
        weight = float(batch.weights[0])
        self.figures = step.figures
        state.step += 1
        state.batch += 1
        state.loss_sum += step.combined * weight
        state.loss_weight += weight
        return step.combined, batch.seen

    def _combine(self, batch: Losses, graph: Tensor | None, losses: Tensor) -> Step:
        recipe, step = self.recipe, self.state.step
        decay = 1.0
        meta: Callable[[], MetaBatches] = MetaBatches
        if isinstance(recipe.combiner, MELTRConfig):
            decay = 1 - step / self.total_steps if recipe.combiner.linear_decay else 1.0
            meta = self.sampler.meta(recipe.combiner, step)
        return self.combiner.step(self.machine, batch, graph, losses, self.engine.rate, decay, meta)

    def _at_once(self, batch: Losses) -> Step:
        learned = self.combiner.learned
        due = learned is not None and learned.meta_due
        graph = batch.part(self.engine, 0)
        step = self._combine(batch, graph, self.machine.total(graph))
        if step.gradient is not None and not self.engine.partitioned:
            self.engine.step_along(step.gradient)
            return step
        if due and self.engine.partitioned:  # the meta step went backward through other graphs since
            with frozen_statistics(self.engine.module):
                graph = batch.part(self.engine, 0)
        self.engine.backward_and_step((step.coefficients.to(graph) * graph).sum())
        return step

    def _accumulated(self, batch: Losses) -> Step:
        """A learned loss needs all losses before the first backward pass: it takes a look without gradients first."""
        step = None
        if self.combiner.learned is not None:
            step = self._combine(batch, None, self.machine.values(batch))
        losses = torch.zeros(len(self.combiner.names), dtype=torch.float64, device=self.device)
        for number in range(len(batch.parts)):
            graph = batch.part(self.engine, number)
            losses += self.machine.total(graph)
            now = step or self._combine(batch, graph, losses)
            self.engine.backward_and_step((now.coefficients.to(graph) * graph).sum())
        return now

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"{what} at step {self.state.step}: training diverged; lower optimiser.eta or set schedule.warmup_steps. "
            "The last checkpoint is good"
        )

    def epoch_figures(self, seen: Any) -> dict[str, float | list[float]]:
        """Ends an epoch: its mean loss, ||w||/||gradient|| by component (Table 3), and the task's own figures."""
        state, count = self.state, len(self.components)
        loss = state.loss_sum / state.loss_weight
        figures: dict[str, float | list[float]] = {"epoch": state.epoch + 1, "epoch_loss": loss}
        if self.norms:
            squares = torch.stack(self.norms).cpu().square()  # (steps, layers, 2)
            by_component = torch.zeros(len(squares), count, 2, dtype=squares.dtype)
            by_component.index_add_(1, self.component, squares)
            ratio = (by_component[..., 0] / by_component[..., 1].clamp(min=1e-30)).sqrt().mean(0)
            figures |= {f"ratio/{name}": value for name, value in zip(self.components, ratio.tolist(), strict=True)}
        figures |= self.task.figures(seen)
        self.norms.clear()
        state.plateau = after_epoch(self.recipe.schedule, state.plateau, loss)
        state.epoch, state.batch, state.loss_sum, state.loss_weight = state.epoch + 1, 0, 0.0, 0.0
        return figures

    def evaluate(self, split: str = "validation") -> dict[str, float]:
        """Scores the model as it is now; every worker scores its share. Collective."""
        network = self.task.network().to(self.device)
        network.load_state_dict(self.engine.weights())
        sums = together(lambda: self.task.score_sums(network, split, self.rank, self.workers)).to(self.device)
        self.collectives.sum_in_place(sums)
        scores = self.task.scores(sums.cpu(), split)
        return {f"{split}/{name}": value for name, value in scores.items()}

    def save(self) -> Path | None:
        """Writes a checkpoint and drops the ones that are no longer kept. Collective."""
        progress, trajectory = self.state.to_json(), self.recipe.trajectory()
        learned, mirror = self.combiner.saved(), self.mirror
        folder = checkpoint.save(self.recipe.folder, self.engine, progress, trajectory, learned, mirror)
        if folder is not None and self.rank == 0:
            state, keep = self.state, self.recipe.checkpoint.keep
            checkpoint.prune(self.recipe.folder, keep, state.best_step, state.step, mirror)
        return folder


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs on every worker.

    `settings["recipe"]`: the recipe as JSON; `settings["folder"]`: the driver's, where relative paths begin, also for
    workers of a cluster that was started elsewhere. A node without it (a submitted job's own copy) stays where it is.
    A user's mistake comes back as {"error": line}, so that Ray neither retries it nor prints a traceback.
    """
    import ray.train.torch

    job_environment.load()
    if Path(settings["folder"]).is_dir():
        os.chdir(settings["folder"])
    recipe = recipe_from_json(settings["recipe"])
    scaling = recipe.scaling
    torch.set_num_threads(scaling.threads_per_worker or max(1, int(scaling.cpus_per_worker)))
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    if ray.train.get_context().get_world_rank() == 0:
        note_reservation(recipe.folder)
    try:
        return run(recipe)
    except UserError as error:
        return {"error": str(error)}


def run(recipe: Recipe) -> dict[str, Any]:
    """Trains to the end, or until it is asked to stop -> the last figures.

    Raises:
        RuntimeError: a collective failed or took too long; the message names whom the others waited for.
    """
    nodes = Nodes.gather()
    liveness = Liveness(nodes.own, recipe.scaling.collective_timeout_s / 3, say)
    try:
        trainer = Trainer(recipe, _load(recipe))
        signals = Signals(recipe.folder, recipe.mirror, trainer.device, nodes.leaving, say)
        try:
            return _train(trainer, signals, liveness)
        finally:
            trainer.sampler.close()
            signals.close()
    except RuntimeError as error:
        if not in_collective(error):
            raise
        what = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise RuntimeError(f"step {liveness.step}: the workers lost each other ({what}): {liveness.late()}") from error
    finally:
        liveness.close()


def _resumed(trainer: Trainer) -> dict[str, float | list[float]]:
    """Says where the run goes on -> what the break has cost: steps to be repeated, and seconds without training."""
    state, log = trainer.state, trainer.recipe.folder / "metrics.jsonl"
    before = read_metrics(log)[-1:] if log.exists() else []
    text = f"resumed from step {state.step} (epoch {state.epoch + 1}) on {trainer.workers} workers"
    cost: dict[str, float | list[float]] = {}
    for record in before:
        repeated, seconds = max(0, record["step"] - state.step), max(0.0, time.time() - record["time"])
        cost = {"repeated_steps": repeated, "seconds_without_training": round(seconds, 1)}
        text += f": {duration(seconds)} after its last figures, {repeated} steps to repeat"
    say(text)
    return cost


def _train(trainer: Trainer, signals: Signals, liveness: Liveness) -> dict[str, Any]:
    recipe, state, training = trainer.recipe, trainer.state, trainer.recipe.training
    tracker, cost = None, dict[str, float | list[float]]()
    if trainer.rank == 0:
        if state.step:
            cost = _resumed(trainer)
        tracker = Tracker.open(
            recipe.folder,
            recipe.tracking,
            run_name=recipe.name,
            recipe=recipe.model_dump(mode="json"),
            resume_step=state.step if state.step else -1,
        )
    progress = Progress(trainer.total_steps, state.step, training.batch_size, trainer.batches)
    started, began = time.monotonic(), state.step
    while state.epoch < training.epochs:
        loss, encoded = trainer.train_step()
        if trainer.engine.lars.norms is not None:
            trainer.norms.append(trainer.engine.lars.norms)
        liveness.step = state.step
        figures, cost = cost, {}
        if state.step % training.log_every == 0 or training.log_every == 1:
            figures |= {"loss": loss, "rate": trainer.engine.rate, **trainer.figures}
        elif trainer.combiner.learned is not None:  # what a learned loss does is of interest at every step
            figures |= trainer.figures
        ended = state.batch == trainer.batches
        if ended:
            figures |= trainer.epoch_figures(encoded)
        last, before = state.epoch == training.epochs, (state.best, state.best_step)
        if ended and (last or state.epoch % training.evaluate_every == 0):
            scores = trainer.evaluate()
            figures |= scores
            state.figures = dict(scores)
            plain = {name.partition("/")[2]: value for name, value in scores.items()}
            selected = trainer.task.selected(plain) if plain else -state.plateau.best  # type: ignore[operator]
            figures["selected"] = selected
            if state.best is None or selected > state.best:
                state.best, state.best_step = selected, state.step
        if tracker is not None:
            if figures:
                seconds = time.monotonic() - started
                rate = (state.step - began) * training.batch_size / seconds
                tracker.log({**figures, "samples_per_second": rate, "training_seconds": seconds}, state.step)
            best = ("validation mean", state.best) if state.best is not None else None
            progress.update(state.step, loss, trainer.engine.rate, best)
        every = recipe.checkpoint.every_steps
        asked = signals.asked()
        if asked == Asked.GIVE_WAY:
            raise UserError(f"{recipe.folder}: this run was started again elsewhere, and goes on there")
        stopped = asked == Asked.STOP and not last
        due = ended and (state.epoch % recipe.checkpoint.every_epochs == 0 or state.best_step == state.step)
        if last or asked or due or (every is not None and state.step % every == 0):
            folder = trainer.save()
            if folder is None and state.best_step == state.step:
                state.best, state.best_step = before  # the best is what can be loaded again
            signals.saved(asked)
            report(trainer, folder)
        if stopped:
            break
    if tracker is not None:
        tracker.close()
        fetch.end(trainer.mirror)
    result = {"step": state.step, **state.figures, **_best(recipe, state)}
    return result if state.epoch == training.epochs else {**result, "stopped": True}


def _load(recipe: Recipe) -> Task:
    """The task on this worker; if any worker cannot read its data, all of them stop with its message. Collective."""

    def load() -> Task:
        fetch.begin(recipe.mirror, first=dist.get_rank() == 0)
        return load_task(recipe)

    return together(load)


def _best(recipe: Recipe, state: RunState) -> dict[str, Any]:
    if state.best_step is None:
        return {}
    return {"best_step": state.best_step, "best_validation_mean": state.best}


def report(trainer: Trainer, folder: Path | None) -> None:
    """Tells Ray Train of the newest figures and where the checkpoint is; a barrier for all workers.

    Not as Ray's own checkpoint: Ray keeps a list of those in the run's folder, and never starts a run again of which
    one has been pruned since.
    """
    import ray.train

    figures = {"step": trainer.state.step, "epoch": trainer.state.epoch, **trainer.state.figures}
    ray.train.report({**figures, "checkpoint": str(folder) if folder is not None else None})
