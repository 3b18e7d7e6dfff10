"""Products of packed rows agree with plain ones, whatever the number of rows."""

import pytest
import torch
from torch.nn import functional as F

from models.neumatch.products import BLOCK, Linear, linear, outer, product

ROWS = (0, 1, 31, 64, 65, BLOCK, 3 * BLOCK + 5)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", ROWS)
def test_product_and_outer_are_the_plain_products(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    a, b, c = (torch.randn(*shape).to(dtype) for shape in ((rows, 300), (300, 200), (rows, 200)))
    close(product(a, b), a.double() @ b.double(), dtype)
    close(product(c, b.t()), c.double() @ b.double().t(), dtype)
    close(outer(a, c), a.double().t() @ c.double(), dtype)
    close(outer(c, a), c.double().t() @ a.double(), dtype)


@pytest.mark.parametrize("rows", ROWS)
def test_linear_has_the_gradients_of_the_plain_layer(rows: int) -> None:
    torch.manual_seed(rows)
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((rows, 300), (200, 300), (200,))]
    upstream = torch.randn(rows, 200)
    found = torch.autograd.grad((linear(*leaves) * upstream).sum(), leaves)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = torch.autograd.grad((F.linear(*exact) * upstream).sum(), exact)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, torch.float32)


def test_inputs_stay_as_they_were_and_padding_never_shows() -> None:
    layer = Linear(300, 200)
    x = torch.randn(BLOCK + 1, 300)
    before = x.clone()
    assert layer(x).shape == (BLOCK + 1, 200)
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
