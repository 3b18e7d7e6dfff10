"""Matrix products of packed rows, through oneDNN on a CPU.

PyTorch sends float32 products on a CPU to MKL, which on many processors reaches less than half of what oneDNN does
(tests/benchmarks shows both). oneDNN compiles a kernel for every new shape (milliseconds and megabytes each), and the
number of packed rows is new in almost every batch: so rows are padded with zeros to a multiple of BLOCK, which leaves
few shapes. The arithmetic is that of the inputs' type either way.
"""

from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 128
_EXACT = 64  # up to so many rows every count has its own kernel: they are small, and padding would cost more
_WORTHWHILE = 1_000_000  # multiplications below which the call costs more than it saves
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _through_onednn(a: Tensor, multiplications: int) -> bool:
    return (
        _AVAILABLE
        and a.device.type == "cpu"
        and a.dtype in (torch.float32, torch.bfloat16)
        and multiplications >= _WORTHWHILE
    )


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return result


def _padded(rows: Tensor) -> Tensor:
    missing = 0 if len(rows) <= _EXACT else -len(rows) % BLOCK
    if not missing:
        return rows
    padded = rows.new_empty(len(rows) + missing, rows.shape[1])  # F.pad would fill all of it before it copies
    padded[: len(rows)] = rows
    padded[len(rows) :] = 0
    return padded


def product(rows: Tensor, b: Tensor) -> Tensor:
    """(S, k) @ (k, n) -> (S, n), where S changes from call to call and k, n do not. Not differentiable."""
    if not _through_onednn(rows, rows.numel() * b.shape[1]):
        return rows @ b
    return _onednn(_padded(rows), b)[: len(rows)]


def outer(left: Tensor, right: Tensor) -> Tensor:
    """(S, m), (S, n) -> left^T right (m, n): sums of outer products over rows, as in weights' gradients."""
    if not _through_onednn(left, left.numel() * right.shape[1]):
        return left.t() @ right
    left, right = _padded(left), _padded(right)
    # oneDNN reads the shorter transposed operand faster.
    if left.shape[1] > right.shape[1]:
        return _onednn(right.t(), left).t()
    return _onednn(left.t(), right)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        count = len(x)
        if _through_onednn(x, x.numel() * len(weight)):
            x = _padded(x)  # once: the backward pass needs it too
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        result = product(x, weight.t())[:count]
        return result if bias is None else result.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        count, grad_bias = len(grad), grad.sum(0) if ctx.has_bias else None
        if len(x) != count:
            grad = _padded(grad)
        grad_x = product(grad, weight)[:count] if ctx.needs_input_grad[0] else None
        return grad_x, outer(grad, x), grad_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` for packed rows (S, k); differentiable once."""
    result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class Linear(nn.Linear):
    """`nn.Linear` for packed rows through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
