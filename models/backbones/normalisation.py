"""Batch normalisation of images over the global batch (Ioffe & Szegedy 2015), of plain differentiable operations."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from models.collectives import Alone, Collectives


class GlobalBatchNorm2d(nn.Module):
    """Normalises each channel over all pixels of all images of all workers.

    Alone it gives the numbers of `torch.nn.BatchNorm2d`: the batch is divided by its biased deviation, the running
    variance is the unbiased one. Unlike that fused kernel it stays exact when workers have ragged or empty shares, and
    it has forward-mode and second derivatives, which hypergradients ask for; in training, take forward-mode ones
    within `models.meltr.statistics.frozen_statistics`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.frozen = False
        """Leave the running statistics alone, also in training; see `frozen_statistics`."""
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.collectives: Collectives = Alone()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As in every module, but a model cast to bf16 keeps float32 statistics: their small updates need it."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.running_mean, self.running_var = (
            s.to(torch.promote_types(s.dtype, torch.float32)) for s in (self.running_mean, self.running_var)
        )
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, normalised. In training the statistics are the global batch's own."""
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        if not self.training:
            scale = torch.rsqrt(self.running_var + self.eps) * self.weight
            return (_centred(values, self.running_mean) * _wide(scale) + _wide(self.bias)).to(x.dtype)
        pixels = values.new_tensor([float(x.shape[0] * x.shape[2] * x.shape[3])])
        # The count travels with the sums: one collective less for each layer.
        totals = self.collectives.sum(torch.cat([values.sum((0, 2, 3)), pixels]))
        count = totals[-1:].detach()
        mean = totals[:-1] / count.clamp(min=1)
        centred = _centred(values, mean)
        var = self.collectives.sum(centred.square().sum((0, 2, 3))) / count.clamp(min=1)
        if not self.frozen:
            self._remember(mean, var, count)
        return (centred * _wide(torch.rsqrt(var + self.eps) * self.weight) + _wide(self.bias)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        dtype = self.running_mean.dtype
        momentum = self.momentum * (count > 0).to(dtype)  # a batch without images says nothing
        self.running_mean.lerp_(mean.to(dtype), momentum)
        self.running_var.lerp_((var * count / (count - 1).clamp(min=1)).to(dtype), momentum)


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _centred(values: Tensor, mean: Tensor) -> Tensor:
    return values - _wide(mean)
