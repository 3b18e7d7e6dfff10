"""Batch normalisation of images over the global batch (Ioffe & Szegedy 2015), of plain differentiable operations."""

import torch
from torch import Tensor

from models.normalisation import GlobalNorm


class GlobalBatchNorm2d(GlobalNorm):
    """Normalises each channel over all pixels of all images of all workers.

    Alone it gives the numbers of `torch.nn.BatchNorm2d`: the batch is divided by its biased deviation, the running
    variance is the unbiased one. Unlike that fused kernel it stays exact when workers have ragged or empty shares, and
    it has forward-mode and second derivatives, which hypergradients ask for; in training, take forward-mode ones
    within `models.meltr.statistics.frozen_statistics`.
    """

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
        with torch.no_grad():
            self.remember(mean, var * count / (count - 1).clamp(min=1), count)
        return (centred * _wide(torch.rsqrt(var + self.eps) * self.weight) + _wide(self.bias)).to(x.dtype)


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _centred(values: Tensor, mean: Tensor) -> Tensor:
    return values - _wide(mean)
