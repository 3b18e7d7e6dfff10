"""From named losses to one step, over the global batch: fixed coefficients, or a learned loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.checkpoint import Checkpoint, Learned, load_learned
from distributed.machine import EngineMachine
from models.combiners import CombinerConfig, fixed_coefficients, losses_needed
from models.errors import UserError
from models.meltr.bilevel import LearnedLoss, MetaBatches
from models.meltr.config import MELTRConfig
from models.meltr.machine import Evaluate, Vector
from models.tasks.task import Task


@dataclass(frozen=True)
class Step:
    """What a step knows of its losses."""

    coefficients: Tensor
    """(T,) of the losses' means."""
    combined: float
    """The number to watch: what is minimised with fixed coefficients, else the plain sum of the losses."""
    figures: dict[str, float]
    """For the log: each loss, and with a learned loss c_t = dM/dl_t, M and the hypergradient's norm."""
    gradient: Vector | None = None
    """Of the combined loss, where it is known already."""


class Combiner:
    """Checks the losses of a step and gives their coefficients; the same on every worker."""

    def __init__(self, config: CombinerConfig, task: Task, seed: int, device: torch.device) -> None:
        self.names = losses_needed(config, task.names, task.primary)
        self.learned: LearnedLoss | None = None
        if isinstance(config, MELTRConfig):
            self.learned = LearnedLoss(config, task.names, task.primary, seed, device)
        else:
            coefficients = fixed_coefficients(config, task.names, task.primary)
            self.fixed = coefficients[coefficients != 0].to(device)

    def step(
        self,
        machine: EngineMachine,
        evaluate: Evaluate,
        graph: Tensor | None,
        losses: Tensor,
        rate: float,
        decay: float,
        meta: Callable[[], MetaBatches],
    ) -> Step:
        """`losses` (T,): means over the global batch; `graph`: this worker's shares of them; `rate`: of the inner step.

        Raises:
            FloatingPointError: a loss or the hypergradient is not finite (the same error on all workers).
            UserError: phi differs between workers.
        """
        values = losses.tolist()
        for name, value in zip(self.names, values, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(f"loss {name!r} is {value}")
        figures = {f"loss/{name}": value for name, value in zip(self.names, values, strict=True)}
        if self.learned is None:
            combined = float((self.fixed.double() * losses.double()).sum())
            return Step(self.fixed, combined, figures if len(values) > 1 else {})
        found = self.learned.combine(machine, evaluate, graph, losses, rate, decay, meta)
        if found.hypergradient_norm is not None:
            _check_agreement(self.learned)
            figures["hypergradient_norm"] = found.hypergradient_norm
        coefficients = found.coefficients.tolist()
        figures |= {f"coefficient/{name}": c for name, c in zip(self.names, coefficients, strict=True)}
        # M moves with phi as well: the plain sum is what can be compared from step to step.
        figures["unified"] = found.unified
        return Step(found.coefficients, sum(values), figures, found.gradient)

    def saved(self) -> Learned | None:
        """What a checkpoint keeps of a learned loss; None with fixed coefficients, which the recipe holds."""
        if self.learned is None:
            return None
        config = self.learned.config.model_dump(mode="json")
        about: dict[str, object] = {
            "names": list(self.names),
            "primary": self.names[self.learned.primary],
            "config": config,
        }
        return self.learned.state(), about

    def restore(self, found: Checkpoint) -> None:
        """The inverse of `saved`. Raises UserError for a checkpoint of other losses."""
        if self.learned is not None:
            self.learned.load(load_learned(found, self.names), found.step)


def _check_agreement(learned: LearnedLoss) -> None:
    """phi is the same on all workers because everything it is made of is; a difference would be silent and fatal."""
    total = torch.stack([p.detach().double().sum() for p in learned.parameters]).sum()
    extremes = torch.stack([total, -total])
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    if float(extremes[0]) != -float(extremes[1]):
        raise UserError(
            "the loss network differs between workers: they do not run the same code or hardware; "
            "go on from the last checkpoint with equal workers"
        )
