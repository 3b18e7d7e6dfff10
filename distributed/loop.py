"""What each worker does: the training loop, from the newest checkpoint to the last epoch."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distributed import checkpoint
from distributed.collectives import WorldCollectives
from distributed.config import Recipe
from distributed.engine import Engine
from distributed.export import read_export
from distributed.progress import Progress
from distributed.sampler import batches_in_epoch, global_batch, share
from distributed.tracking import Tracker
from models.data.alignment_set import load_examples
from models.data.examples import Example
from models.errors import UserError
from models.neumatch.network import NeuMATCH, NeuMATCHConfig
from models.neumatch.samples import Preprocessors
from models.optim.schedule import PlateauState, after_epoch, rate_factor
from models.tasks.alignment import AlignmentTask, stack_statistics

COMPONENTS = ("video_stack", "text_stack", "action_matched_stacks", "fc")


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


def build_task(recipe: Recipe, preprocessors: Preprocessors) -> AlignmentTask:
    """The task that a recipe names."""
    if not isinstance(recipe.model, NeuMATCHConfig):
        raise UserError(f"model.name={recipe.model.name} needs no training run: use `python -m distributed.evaluate`")
    return AlignmentTask(recipe.model, preprocessors, recipe.data.longest, recipe.training.label_smoothing)


class Trainer:
    """One worker's part of a run."""

    def __init__(self, recipe: Recipe, examples: Mapping[str, list[Example]], preprocessors: Preprocessors) -> None:
        """Needs an initialised torch.distributed process group."""
        self.recipe, self.examples = recipe, examples
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        self.task = build_task(recipe, preprocessors)
        self.task.prepare(examples["train"])
        if not self.task.samples:
            raise UserError("the training split is empty: there is nothing to train on")
        torch.manual_seed(recipe.seed)  # the same initial weights on every worker
        network = self.task.network()
        if recipe.init_from is not None:
            network.load_state_dict(read_export(recipe.init_from, recipe.model).weights)
        self.collectives = WorldCollectives()
        network.synchronise(self.collectives)
        self.engine = Engine(network.to(self.device), recipe.engine, recipe.optimiser)
        self.state = RunState()
        self.batches = batches_in_epoch(len(self.task.samples), recipe.training.batch_size)
        layers = list(self.engine.shards.shapes)
        self.component = torch.tensor([COMPONENTS.index(NeuMATCH.component_of(name)) for name in layers])
        self.norms: list[Tensor] = []
        found = checkpoint.newest(recipe.folder, warn=self.rank == 0)
        if found is not None:
            checkpoint.check_recipe(found, recipe.trajectory())
            checkpoint.load(found, self.engine)
            self.state = RunState.from_json(found.manifest["progress"])

    @property
    def total_steps(self) -> int:
        return self.recipe.training.epochs * self.batches

    def train_step(self) -> tuple[float, Any]:
        """One optimiser step on the next global batch -> its mean loss over the global batch."""
        recipe, state, engine = self.recipe, self.state, self.engine
        rows = global_batch(len(self.task.samples), recipe.training.batch_size, recipe.seed, state.epoch, state.batch)
        parts = engine.config.accumulation
        micros = [
            self.task.batch(share(rows, self.rank, self.workers, micro, parts), self.device) for micro in range(parts)
        ]
        weight = self._sum([sum(self.task.weights(micro)[self.task.primary] for micro in micros)])[0]
        engine.rate = recipe.optimiser.eta * rate_factor(recipe.schedule, state.plateau, state.step)
        torch.manual_seed((recipe.seed * 1_000_003 + state.step) % 2**63)
        total, encoded = 0.0, None
        for micro in micros:
            losses, encoded = self.task.losses(engine, micro)
            loss = losses[self.task.primary] / weight
            (mean,) = self._sum([float(loss.detach())])
            if not math.isfinite(mean):
                raise self._diverged(f"loss {self.task.primary!r} is {mean}")
            try:
                engine.backward_and_step(loss)
            except FloatingPointError as error:
                raise self._diverged(str(error)) from error
            total += mean
        state.step += 1
        state.batch += 1
        state.loss_sum += total * weight
        state.loss_weight += weight
        return total, encoded

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"{what} at step {self.state.step}: training diverged; lower optimiser.eta or set schedule.warmup_steps. "
            "The last checkpoint is good"
        )

    def _sum(self, values: list[float]) -> list[float]:
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        self.collectives.sum_in_place(numbers)
        return numbers.tolist()

    def epoch_figures(self, encoded: Any) -> dict[str, float | list[float]]:
        """Ends an epoch: its mean loss, ||w||/||gradient|| by component (Table 3), and the stacks (Figure 5)."""
        state = self.state
        loss = state.loss_sum / state.loss_weight
        figures: dict[str, float | list[float]] = {"epoch": state.epoch + 1, "epoch_loss": loss}
        if self.norms:
            squares = torch.stack(self.norms).cpu().square()  # (steps, layers, 2)
            by_component = torch.zeros(len(squares), len(COMPONENTS), 2, dtype=squares.dtype)
            by_component.index_add_(1, self.component, squares)
            ratio = (by_component[..., 0] / by_component[..., 1].clamp(min=1e-30)).sqrt().mean(0)
            figures |= {f"ratio/{name}": value for name, value in zip(COMPONENTS, ratio.tolist(), strict=True)}
        figures |= stack_statistics(encoded)
        self.norms.clear()
        state.plateau = after_epoch(self.recipe.schedule, state.plateau, loss)
        state.epoch, state.batch, state.loss_sum, state.loss_weight = state.epoch + 1, 0, 0.0, 0.0
        return figures

    def evaluate(self, split: str = "validation") -> dict[str, float]:
        """Scores the model as it is now; every worker decodes its share of the movies. Collective."""
        network = self.task.network().to(self.device)
        network.load_state_dict(self.engine.weights())
        mine = self.examples[split][self.rank :: self.workers]
        sums = torch.zeros(3, dtype=torch.float64)
        if mine:
            sums = self.task.score_sums(network, mine, self.recipe.decoding)
        accuracy, iou, movies = self._sum(sums.tolist())
        if not movies:
            return {}
        return {f"{split}/video_accuracy": accuracy / movies, f"{split}/text_iou": iou / movies}

    def save(self) -> Path | None:
        """Writes a checkpoint and drops the ones that are no longer kept. Collective."""
        folder = checkpoint.save(self.recipe.folder, self.engine, self.state.to_json(), self.recipe.trajectory())
        if folder is not None and self.rank == 0:
            state, keep = self.state, self.recipe.checkpoint.keep
            checkpoint.prune(self.recipe.folder, keep, state.best_step, state.step)
        return folder


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs on every worker. `settings["recipe"]`: the recipe as JSON.

    A user's mistake comes back as {"error": line}, so that Ray neither retries it nor prints a traceback.
    """
    import ray.train.torch

    recipe = Recipe.model_validate_json(settings["recipe"])
    scaling = recipe.scaling
    torch.set_num_threads(scaling.threads_per_worker or max(1, int(scaling.cpus_per_worker)))
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    try:
        return run(recipe)
    except UserError as error:
        return {"error": str(error)}


def run(recipe: Recipe) -> dict[str, Any]:
    """Trains to the end -> the last figures."""
    trainer = Trainer(recipe, *_load(recipe))
    state, training = trainer.state, recipe.training
    tracker = None
    if trainer.rank == 0:
        tracker = Tracker.open(
            recipe.folder,
            recipe.tracking,
            run_name=recipe.name,
            recipe=recipe.model_dump(mode="json"),
            resume_step=state.step if state.step else -1,
        )
        if state.step:
            print(f"resumed from step {state.step} (epoch {state.epoch + 1}) on {trainer.workers} workers", flush=True)
    progress = Progress(trainer.total_steps, state.step, training.batch_size, trainer.batches)
    started, began = time.monotonic(), state.step
    while state.epoch < training.epochs:
        loss, encoded = trainer.train_step()
        if trainer.engine.lars.norms is not None:
            trainer.norms.append(trainer.engine.lars.norms)
        figures: dict[str, float | list[float]] = {}
        if state.step % training.log_every == 0 or training.log_every == 1:
            figures |= {"loss": loss, "rate": trainer.engine.rate}
        ended = state.batch == trainer.batches
        if ended:
            figures |= trainer.epoch_figures(encoded)
        last, before = state.epoch == training.epochs, (state.best, state.best_step)
        if ended and (last or state.epoch % training.evaluate_every == 0):
            scores = trainer.evaluate()
            figures |= scores
            state.figures = dict(scores)
            selected = sum(scores.values()) / len(scores) if scores else -state.plateau.best  # type: ignore[operator]
            if state.best is None or selected > state.best:
                state.best, state.best_step = selected, state.step
        if tracker is not None:
            if figures:
                rate = (state.step - began) * training.batch_size / (time.monotonic() - started)
                tracker.log({**figures, "samples_per_second": rate}, state.step)
            best = ("validation mean", state.best) if state.best is not None else None
            progress.update(state.step, loss, trainer.engine.rate, best)
        every = recipe.checkpoint.every_steps
        due = ended and (state.epoch % recipe.checkpoint.every_epochs == 0 or state.best_step == state.step)
        if last or due or (every is not None and state.step % every == 0):
            folder = trainer.save()
            if folder is None and state.best_step == state.step:
                state.best, state.best_step = before  # the best is what can be loaded again
            report(trainer, folder)
    if tracker is not None:
        tracker.close()
    return {"step": state.step, **state.figures, **_best(recipe, state)}


def _load(recipe: Recipe) -> tuple[dict[str, list[Example]], Preprocessors]:
    """The data on this worker; if any worker cannot read it, all of them stop with its message. Collective."""
    problem, examples, preprocessors = "", None, None
    try:
        examples = load_examples(recipe.data, recipe.storage.absolute() / "cache")
        preprocessors = read_preprocessors(recipe.folder)
    except UserError as error:
        problem = f"worker {dist.get_rank()}: {error}"
    problems: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    if examples is None or preprocessors is None or any(problems):
        raise UserError(next(text for text in problems if text))
    return examples, preprocessors


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


def read_preprocessors(run_folder: Path) -> Preprocessors:
    """What `distributed.train` fitted before the launch."""
    return Preprocessors.from_file(run_folder / "preprocessing.safetensors")


def json_of(recipe: Recipe) -> str:
    """The recipe as the workers get it."""
    return json.dumps(recipe.model_dump(mode="json"))
