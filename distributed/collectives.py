"""Sums over all workers of a torch.distributed group, with and without gradient."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from models.errors import UserError

T = TypeVar("T")


def everyone(value: Any) -> list[Any]:
    """What each worker says, by rank, on every worker. Collective."""
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, value)
    return said


def together(compute: Callable[[], T]) -> T:
    """What `compute` gives on this worker; a mistake that any worker finds ends it on all. Collective.

    Raises:
        UserError: that of the first worker that found one.
    """
    problem, found = "", None
    try:
        found = compute()
    except UserError as error:
        problem = f"worker {dist.get_rank()}: {error}"
    if said := [text for text in everyone(problem) if text]:
        raise UserError(said[0])
    return cast(T, found)


def _total(tensor: Tensor) -> Tensor:
    total = tensor.contiguous().clone()
    dist.all_reduce(total)
    return total


class _SumOverWorkers(torch.autograd.Function):
    """Forward, and forward mode: the sum over workers. Backward: the sum over workers of the incoming gradients.

    Every worker's result depends on every worker's input, so with a total loss that is the sum of the workers' losses
    the gradient of an input is the sum of what all workers send back.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _total(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _total(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _total(tangent)


class _RowsOfAllWorkers(torch.autograd.Function):
    """Forward, and forward mode: the rows of all workers. Backward: the sum over workers of the gradients of own rows.

    The loss is a sum over workers, and each of them may have used every row.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _all_rows(rows, counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _total(grad).split(ctx.counts)[dist.get_rank()], None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _all_rows(tangent, ctx.counts)


def _all_rows(rows: Tensor, counts: list[int]) -> Tensor:
    longest = max(counts)  # every worker's part of a collective has the same shape
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class WorldCollectives:
    """The collectives of the default process group (see models/collectives.py)."""

    @property
    def world_size(self) -> int:
        return dist.get_world_size()

    def sum(self, tensor: Tensor) -> Tensor:
        """The element-wise sum over workers, differentiable."""
        total: Tensor = _SumOverWorkers.apply(tensor)  # type: ignore[no-untyped-call]
        return total

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replaces `tensor` by its sum over workers; not differentiable."""
        dist.all_reduce(tensor)

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        if self.world_size == 1:
            return rows, 0
        counts = torch.zeros(self.world_size, dtype=torch.long, device=rows.device)
        counts[dist.get_rank()] = len(rows)
        dist.all_reduce(counts)
        found: list[int] = counts.tolist()
        return _RowsOfAllWorkers.apply(rows, found), sum(found[: dist.get_rank()])  # type: ignore[no-untyped-call]
