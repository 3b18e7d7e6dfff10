"""The batches of a run: a function of seed and step alone, also those that a learned loss looks at beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from distributed.collectives import everyone
from distributed.ingest import Ingest
from distributed.sampler import batches_in_epoch, global_batch, share
from models.collectives import Collectives
from models.errors import UserError
from models.meltr.bilevel import MetaBatches
from models.meltr.config import MELTRConfig
from models.meltr.machine import Evaluate, Network
from models.tasks.task import ReadingTask, Task


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


@dataclass(frozen=True)
class Plan:
    """Which samples a worker sees at which step, and by which draw they vary; small, so that readers elsewhere know."""

    samples: Sequence[int]
    batch_size: int
    seed: int
    rank: int
    workers: int

    @property
    def in_epoch(self) -> int:
        """Steps an epoch."""
        return batches_in_epoch(len(self.samples), self.batch_size)

    def rows(self, step: int) -> list[int]:
        """The samples of the global batch of a step."""
        epoch, index = divmod(step, self.in_epoch)
        chosen = global_batch(len(self.samples), self.batch_size, self.seed, epoch, index)
        return [self.samples[number] for number in chosen]

    def draw(self, step: int) -> int:
        """What varies the samples of a step."""
        return self.seed * 1_000_003 + step

    def share(self, rows: list[int], part: int = 0, parts: int = 1) -> list[int]:
        """This worker's samples of a global batch, or of a micro-batch of it."""
        return share(rows, self.rank, self.workers, part, parts)

    def __call__(self, step: int) -> tuple[list[int], int]:
        """This worker's samples of a step, and the draw."""
        return self.share(self.rows(step)), self.draw(step)


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
        self.task, self.names = task, names
        self.plan = Plan(range(len(task)), batch_size, seed, *place)
        self.collectives, self.device = collectives, device
        self.held_out: Sequence[int] = ()
        self.ingest: Ingest | None = None

    def hold_out(self, fraction: float) -> None:
        """Keeps some training samples for the upper objective alone.

        Raises:
            UserError: nothing would be left on one of the sides.
        """
        order = torch.randperm(len(self.task), generator=torch.Generator().manual_seed(self.plan.seed)).tolist()
        count = round(fraction * len(order))
        if not 0 < count < len(order):
            raise UserError(f"combiner.held_out_fraction={fraction}: leaves {count} of {len(order)} samples; change it")
        self.held_out, self.plan = sorted(order[:count]), replace(self.plan, samples=sorted(order[count:]))

    def read_ahead(self, start: int, stop: int, readers: int) -> None:
        """From now on the batches of the steps from `start` to before `stop` are read before they are asked for, where
        the task reads from a disk."""
        if isinstance(self.task, ReadingTask):
            self.ingest = Ingest(self.task.read, self.plan, start, stop, readers)

    def close(self) -> None:
        """Ends what reads ahead."""
        if self.ingest is not None:
            self.ingest.close()

    def losses(self, rows: list[int], step: int, parts: int = 1) -> Losses:
        """The losses on these samples, varied at random as `step` has it; collective."""
        draw = self.plan.draw(step)
        shares = [self.plan.share(rows, part, parts) for part in range(parts)]
        return self._made(lambda: [self.task.batch(own, self.device, draw) for own in shares], draw)

    def at(self, step: int, parts: int = 1) -> Losses:
        """The losses of the global batch of a step; collective."""
        if self.ingest is None or parts > 1:
            return self.losses(self.plan.rows(step), step, parts)
        task, ingest = cast(ReadingTask, self.task), self.ingest
        return self._made(lambda: [task.loaded(ingest.at(step), self.device)], self.plan.draw(step))

    def _made(self, read: Callable[[], list[Any]], draw: int) -> Losses:
        """What a worker cannot read ends the run on all of them; the others would wait for it until they time out."""
        problem, micros = "", list[Any]()
        try:
            micros = read()
        except UserError as error:
            problem = str(error)
        counts = [self.task.weights(micro) for micro in micros]
        total = [sum(count[name] for count in counts) for name in self.names]
        numbers = torch.tensor([*total, float(bool(problem))], dtype=torch.float64, device=self.device)
        self.collectives.sum_in_place(numbers)
        if numbers[-1]:
            raise UserError(next(text for text in everyone(problem) if text))
        weights = torch.where(numbers[:-1] > 0, numbers[:-1], 1.0).float()
        return Losses(self.task, self.names, micros, weights, draw)

    def meta(self, config: MELTRConfig, step: int) -> Callable[[], MetaBatches]:
        """The batches that the meta step before `step` looks at, made when asked for.

        Earlier batches are made again from their numbers, so there is no buffer to keep or to save.
        """

        def earlier(number: int) -> Losses:
            source = torch.Generator().manual_seed(self.plan.draw(step) * 16 + number)
            back = int(torch.randint(1, min(config.replay_batches, step) + 1, (), generator=source))
            return self.at(step - back)

        def made() -> MetaBatches:
            batches = MetaBatches()
            if config.meta_data == "replay":
                batches.primary = earlier(0)
            elif config.meta_data == "held_out":
                count = len(self.held_out)
                size = self.plan.batch_size
                start = step * size % count
                rows = [self.held_out[(start + i) % count] for i in range(min(size, count))]
                batches.primary = self.losses(rows, step)
            if config.meta_fraction < 1:
                rows = self.plan.rows(step)
                batches.training = self.losses(rows[: max(1, round(config.meta_fraction * len(rows)))], step)
            if config.scheme == "stocbio":
                batches.others = [earlier(number) for number in range(1, config.terms + 1)]
            return batches

        return made
