"""What passes through models of `transformers` that are not made for batches of no samples."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Triple = tuple[float, float, float]
T = TypeVar("T", Tensor, tuple[Tensor, ...])


def at_least_one(compute: Callable[..., T], *rows: Tensor) -> T:
    """`compute(*rows)`; for no rows what it makes of one row of zeros, without that row: the same modules are called,
    and all weights have a gradient of zeros."""
    if len(rows[0]):
        return compute(*rows)
    found = compute(*map(_zeros, rows))
    return found[:0] if isinstance(found, Tensor) else tuple(part[:0] for part in found)


def _zeros(rows: Tensor) -> Tensor:
    # A part of the graph that the rows come from.
    return torch.cat([rows, rows.new_zeros((1, *rows.shape[1:]))])


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of a network's weights, frozen ones (buffers) included."""
    tensors = (*module.parameters(), *module.buffers())
    return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())


def standardised(frames: Tensor, statistics: tuple[Triple, Triple], dtype: torch.dtype) -> Tensor:
    """(..., 3, h, w) from 0 to 1 -> around the mean, in units of the deviation."""
    centre, deviation = (frames.new_tensor(values)[:, None, None] for values in statistics)
    return ((frames - centre) / deviation).to(dtype)
