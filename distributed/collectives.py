"""Sums over all workers of a torch.distributed group, with and without gradient."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
