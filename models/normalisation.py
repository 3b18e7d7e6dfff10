"""What layers that normalise over the global batch share: their parameters, running statistics and collectives."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from models.collectives import Alone, Collectives


class GlobalNorm(nn.Module):
    """A scale, a shift and running statistics, `width` of each. Subclasses say over what they normalise."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.frozen = False
        """Leave the running statistics alone, also in training; see `models.meltr.statistics.frozen_statistics`."""
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.collectives: Collectives = Alone()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As in every module, but a model cast to bf16 keeps float32 statistics: their small updates need it."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.running_mean, self.running_var = (
            s.to(torch.promote_types(s.dtype, torch.float32)) for s in (self.running_mean, self.running_var)
        )
        return self

    @torch.no_grad()
    def remember(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Takes a batch's statistics (width,) into the running ones, unless they are frozen or `count` (1,) is 0."""
        if self.frozen:
            return
        dtype = self.running_mean.dtype
        momentum = self.momentum * (count > 0).to(dtype)  # an empty batch says nothing
        self.running_mean.lerp_(mean.to(dtype), momentum)
        self.running_var.lerp_(var.to(dtype), momentum)


def synchronise(network: nn.Module, collectives: Collectives) -> None:
    """From now on layers that look at the whole batch (they have `collectives`) see those of all workers together."""
    for module in network.modules():
        if hasattr(module, "collectives"):
            module.collectives = collectives  # type: ignore[assignment]
