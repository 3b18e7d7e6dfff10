"""Matrix products through oneDNN where that is faster: large float32 products on a CPU.

PyTorch sends float32 products on a CPU to MKL, which on many processors reaches only two thirds of what oneDNN does
(tests/benchmarks shows both). The result is float32 arithmetic either way.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LARGE = 50_000  # elements of either side below which the call costs more than it saves
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(a: Tensor, b: Tensor) -> Tensor:
    """(m, k) @ (k, n) -> (m, n), not differentiable."""
    on_cpu = a.device.type == "cpu" and a.dtype == torch.float32
    if _AVAILABLE and on_cpu and min(a.numel(), b.numel()) >= _LARGE:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
        return result
    return a @ b


def repeated(b: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """The function a -> a @ b for many `a` of about (rows, k): `b` is brought into oneDNN's own layout once."""
    if not (_AVAILABLE and b.device.type == "cpu" and b.dtype == torch.float32 and b.numel() >= _LARGE):
        return lambda a: a @ b
    packed = torch.ops.mkldnn._reorder_linear_weight(b.t().contiguous(), rows)

    def times(a: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")
        return result

    return times


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        result = product(x, weight.t())
        return result if bias is None else result.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, product(grad.t(), x), grad.sum(0) if ctx.has_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` for (m, k) inputs; once differentiable."""
    if x.requires_grad or weight.requires_grad:
        result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` for (m, k) inputs through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
