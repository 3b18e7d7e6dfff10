"""Packed rows: every sequence of a batch without its padding, so that no arithmetic is spent on padding.

Shape legend: B sequences, L longest, S = sum of the lengths. Packed order is PyTorch's: sorted by length (longest
first), time-major; step t holds `batch_sizes[t]` rows, those of the sequences longer than t.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where each element of B sequences stands among S packed rows.

    Attributes:
        lengths: (B,) int64 on the CPU; zeros are allowed, and so is B = 0.
        batch_sizes: one row count a time step, non-increasing.
        rows: (B, L) int64, the packed row of element (b, t); rows beyond a length are 0 and must not be used.
    """

    lengths: Tensor
    batch_sizes: tuple[int, ...]
    rows: Tensor

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device | None = None) -> "Packing":
        """Lays out sequences of the given `lengths` ((B,) int64 on the CPU); indices go to `device`."""
        longest = int(lengths.max()) if len(lengths) else 0
        real = torch.arange(longest)[None, :] < lengths[:, None]
        sizes = real.sum(0)
        starts = sizes.cumsum(0) - sizes
        rank = torch.argsort(torch.argsort(lengths, descending=True, stable=True))
        rows = torch.where(real, starts[None, :] + rank[:, None], 0)
        return cls(lengths, tuple(sizes.tolist()), rows.to(device, non_blocking=True) if device else rows)

    @property
    def total(self) -> int:
        """S, the number of packed rows."""
        return sum(self.batch_sizes)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, L', ...) with L' >= L -> (S, ...)."""
        batch, length = self.rows.shape
        real = (torch.arange(length)[None, :] < self.lengths[:, None]).to(padded.device)
        source = torch.empty(self.total, dtype=torch.int64, device=padded.device)
        flat = torch.arange(batch * length, device=padded.device).view(batch, length)
        source[self.rows[real]] = flat[real]
        return padded[:, :length].flatten(0, 1).index_select(0, source)
