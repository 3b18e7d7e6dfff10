"""Sequence-wise batch normalisation (SBN) over the global batch (WACV 2021, section 3.2, eq. 5-7)."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from models.collectives import Alone, Collectives


class SequenceBatchNorm(nn.Module):
    """Normalises each dimension over all unpadded elements of all sequences of the global batch.

    The paper's eq. 6 divides the squared deviations by their count M; the published code divides by M-1
    (`unbiased=True`, the default).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, unbiased: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.unbiased, self.momentum, self.eps = unbiased, momentum, eps
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

    def forward(self, x: Tensor) -> Tensor:
        """(S, width) packed rows -> the same, normalised. In training the statistics are the global batch's own."""
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        if not self.training:
            mean, var = self.running_mean, self.running_var
            return ((rows - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(x.dtype)
        count = rows.new_tensor([float(len(rows))])
        self.collectives.sum_in_place(count)
        mean = self.collectives.sum(rows.sum(0)) / count.clamp(min=1)
        centred = rows - mean
        divisor = (count - 1 if self.unbiased else count).clamp(min=1)
        var = self.collectives.sum(centred.square().sum(0)) / divisor
        with torch.no_grad():
            momentum = self.momentum * (count > 0).to(self.running_mean.dtype)  # a batch without elements says nothing
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), momentum)
        return (centred * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(x.dtype)
