"""Sequence-wise batch normalisation (SBN) over the global batch (WACV 2021, section 3.2, eq. 5-7)."""

import torch
from torch import Tensor

from models.normalisation import GlobalNorm


class SequenceBatchNorm(GlobalNorm):
    """Normalises each dimension over all unpadded elements of all sequences of the global batch.

    The paper's eq. 6 divides the squared deviations by their count M; the published code divides by M-1
    (`unbiased=True`, the default).
    """

    def __init__(self, width: int, unbiased: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(width, momentum, eps)
        self.unbiased = unbiased

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
        self.remember(mean, var, count)
        return (centred * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(x.dtype)
