"""The batches of a run: a function of seed and step alone, also those that a learned loss looks at beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distributed.sampler import batches_in_epoch, global_batch, share
from models.collectives import Collectives
from models.errors import UserError
from models.meltr.bilevel import MetaBatches
from models.meltr.config import MELTRConfig
from models.meltr.machine import Evaluate, Network
from models.tasks.task import Task


@dataclass
class Losses:
    """This worker's share of a batch as a function of the network: the same numbers at every call."""

    task: Task
    names: tuple[str, ...]
    """Of the T losses to compute."""
    parts: list[Any]
    """One batch a micro-batch."""
    weights: Tensor
    """(T,) of the global batch."""
    seed: int
    seen: Any = None
    """What the newest call saw beside the losses."""

    def part(self, network: Network, number: int) -> Tensor:
        """(T,) shares of micro-batch `number`: summed over workers and micro-batches they are means."""
        torch.manual_seed((self.seed * 64 + number) % 2**63)  # dropout repeats itself too
        losses, self.seen = self.task.losses(network, self.parts[number], self.names)
        return torch.stack([losses[name] for name in self.names]) / self.weights

    @property
    def pieces(self) -> list[Evaluate]:
        """The shares of each micro-batch as a function of the network."""
        return [partial(self.part, number=number) for number in range(len(self.parts))]

    def __call__(self, network: Network) -> Tensor:
        return torch.stack([piece(network) for piece in self.pieces]).sum(0)


class Batches:
    """Which samples are trained on at which step, and by whom."""

    def __init__(
        self,
        task: Task,
        names: tuple[str, ...],
        seed: int,
        batch_size: int,
        place: tuple[int, int],
        collectives: Collectives,
        device: torch.device,
    ) -> None:
        """`names`: of the losses to compute; `place`: this worker's rank, and how many workers there are."""
        self.task, self.names, self.seed, self.batch_size = task, names, seed, batch_size
        self.rank, self.workers = place
        self.collectives, self.device = collectives, device
        self.samples: Sequence[int] = range(len(task))
        self.held_out: Sequence[int] = ()

    def hold_out(self, fraction: float) -> None:
        """Keeps some training samples for the upper objective alone.

        Raises:
            UserError: nothing would be left on one of the sides.
        """
        order = torch.randperm(len(self.task), generator=torch.Generator().manual_seed(self.seed)).tolist()
        count = round(fraction * len(order))
        if not 0 < count < len(order):
            raise UserError(f"combiner.held_out_fraction={fraction}: leaves {count} of {len(order)} samples; change it")
        self.held_out, self.samples = sorted(order[:count]), sorted(order[count:])

    @property
    def in_epoch(self) -> int:
        """Steps an epoch."""
        return batches_in_epoch(len(self.samples), self.batch_size)

    def rows(self, step: int) -> list[int]:
        """The samples of the global batch of a step."""
        epoch, index = divmod(step, self.in_epoch)
        chosen = global_batch(len(self.samples), self.batch_size, self.seed, epoch, index)
        return [self.samples[number] for number in chosen]

    def losses(self, rows: list[int], step: int, parts: int = 1) -> Losses:
        """The losses on these samples, varied at random as `step` has it; collective."""
        draw = self.seed * 1_000_003 + step
        micros = [
            self.task.batch(share(rows, self.rank, self.workers, part, parts), self.device, draw)
            for part in range(parts)
        ]
        counts = [self.task.weights(micro) for micro in micros]
        total = [sum(count[name] for count in counts) for name in self.names]
        weights = torch.tensor(total, dtype=torch.float64, device=self.device)
        self.collectives.sum_in_place(weights)
        weights = torch.where(weights > 0, weights, 1.0).float()
        return Losses(self.task, self.names, micros, weights, draw)

    def at(self, step: int, parts: int = 1) -> Losses:
        """The losses of the global batch of a step; collective."""
        return self.losses(self.rows(step), step, parts)

    def meta(self, config: MELTRConfig, step: int) -> Callable[[], MetaBatches]:
        """The batches that the meta step before `step` looks at, made when asked for.

        Earlier batches are made again from their numbers, so there is no buffer to keep or to save.
        """

        def earlier(number: int) -> Losses:
            source = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 16 + number)
            back = int(torch.randint(1, min(config.replay_batches, step) + 1, (), generator=source))
            return self.at(step - back)

        def made() -> MetaBatches:
            batches = MetaBatches()
            if config.meta_data == "replay":
                batches.primary = earlier(0)
            elif config.meta_data == "held_out":
                count = len(self.held_out)
                start = step * self.batch_size % count
                rows = [self.held_out[(start + i) % count] for i in range(min(self.batch_size, count))]
                batches.primary = self.losses(rows, step)
            if config.meta_fraction < 1:
                rows = self.rows(step)
                batches.training = self.losses(rows[: max(1, round(config.meta_fraction * len(rows)))], step)
            if config.scheme == "stocbio":
                batches.others = [earlier(number) for number in range(1, config.terms + 1)]
            return batches

        return made
