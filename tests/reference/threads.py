"""Workers as threads of one process, whose collectives really wait for each other and sum."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class _Meeting:
    """Where the workers put what they bring, and take the sum away."""

    def __init__(self, workers: int) -> None:
        self.barrier = Barrier(workers)
        self.brought: list[Tensor] = [torch.empty(0)] * workers

    def all(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self.brought[rank] = tensor.detach().clone()
        self.barrier.wait()
        brought = list(self.brought)
        self.barrier.wait()
        return brought

    def total(self, rank: int, tensor: Tensor) -> Tensor:
        return torch.stack(self.all(rank, tensor)).sum(0)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, meeting: _Meeting, rank: int) -> Tensor:
        ctx.place = meeting, rank
        return meeting.total(rank, tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        meeting, rank = ctx.place
        return meeting.total(rank, grad), None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, meeting: _Meeting, rank: int) -> Tensor:
        ctx.place, ctx.counts = (meeting, rank), [len(part) for part in meeting.all(rank, rows)]
        return torch.cat(meeting.all(rank, rows))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        meeting, rank = ctx.place
        return meeting.total(rank, grad).split(ctx.counts)[rank], None, None


class ThreadCollectives:
    """The collectives of one worker among `in_threads`."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank, self.meeting = rank, meeting

    @property
    def world_size(self) -> int:
        return self.meeting.barrier.parties

    def sum(self, tensor: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(tensor, self.meeting, self.rank)  # type: ignore[no-untyped-call]
        return total

    def sum_in_place(self, tensor: Tensor) -> None:
        tensor.copy_(self.meeting.total(self.rank, tensor))

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        found: Tensor = _Rows.apply(rows, self.meeting, self.rank)  # type: ignore[no-untyped-call]
        counts = [len(part) for part in self.meeting.all(self.rank, rows)]
        return found, sum(counts[: self.rank])


def assert_as_one(together: list[list[Tensor]], alone: list[Tensor]) -> None:
    """Each worker's outputs, input gradient, gradients of weight and bias, both running statistics, in this order,
    are those of one process that saw all of the batch."""
    for place in (0, 1):  # outputs and input gradients, put together again
        found = torch.cat([worker[place] for worker in together])
        torch.testing.assert_close(found, alone[place], rtol=1e-10, atol=1e-11)
    for place in (2, 3):  # parameter gradients add up over workers
        found = torch.stack([worker[place] for worker in together]).sum(0)
        torch.testing.assert_close(found, alone[place], rtol=1e-10, atol=1e-11)
    for worker in together:
        for place in (4, 5):
            torch.testing.assert_close(worker[place], alone[place], rtol=1e-10, atol=1e-11)


def in_threads(workers: int, work: Callable[[ThreadCollectives], T]) -> list[T]:
    """What `work` returns on each of the workers, by rank; the first error of any is raised."""
    meeting = _Meeting(workers)

    def guarded(rank: int) -> T:
        try:
            return work(ThreadCollectives(rank, meeting))
        except BaseException:
            meeting.barrier.abort()  # or the others would wait forever
            raise

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(guarded, range(workers)))
