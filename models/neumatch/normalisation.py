"""Sequence-wise batch normalisation (SBN) over the global batch (WACV 2021, section 3.2, eq. 5-7)."""

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

    def forward(self, x: Tensor) -> Tensor:
        """(S, width) packed rows -> the same, normalised. In training the statistics are the global batch's own."""
        if not self.training:
            mean, var = self.running_mean, self.running_var
            return ((x.float() - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(x.dtype)
        rows = x.float()
        count = rows.new_tensor([float(len(rows))])
        self.collectives.sum_in_place(count)
        mean = self.collectives.sum(rows.sum(0)) / count
        centred = rows - mean
        divisor = (count - 1 if self.unbiased else count).clamp(min=1)
        var = self.collectives.sum(centred.square().sum(0)) / divisor
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
        return (centred * torch.rsqrt(var + self.eps) * self.weight + self.bias).to(x.dtype)
