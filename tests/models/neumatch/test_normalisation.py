"""SBN beside its formula, with both divisors, and over workers as over one whole batch."""

import pytest
import torch
from torch import Tensor

from models.neumatch.normalisation import SequenceBatchNorm
from tests.reference.threads import ThreadCollectives, assert_as_one, in_threads


def made(unbiased: bool = True) -> SequenceBatchNorm:
    norm = SequenceBatchNorm(5, unbiased).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 5))
        norm.bias.copy_(torch.linspace(-1, 1, 5))
    return norm


def elements(count: int = 23) -> Tensor:
    return 3 + 2 * torch.randn(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("unbiased", [True, False])
def test_formula_and_running_statistics(unbiased: bool) -> None:
    norm, x = made(unbiased), elements()
    mean = sum(x) / 23  # eq. 5
    variance = sum((row - mean) ** 2 for row in x) / (22 if unbiased else 23)  # eq. 6 and the published code
    expected = (x - mean) / (variance + 1e-5) ** 0.5 * norm.weight + norm.bias  # eq. 7
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.1 * torch.as_tensor(mean), rtol=1e-12, atol=0)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * torch.as_tensor(variance), rtol=1e-12, atol=0)
    norm(x)
    torch.testing.assert_close(norm.running_mean, 0.19 * torch.as_tensor(mean), rtol=1e-12, atol=0)
    norm.eval()
    kept = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    before = norm.running_var.clone()
    torch.testing.assert_close(norm(x), kept, rtol=1e-12, atol=1e-12)
    assert torch.equal(norm.running_var, before)


def test_gradients() -> None:
    norm = made()
    assert torch.autograd.gradcheck(norm, (elements(7).requires_grad_(),))


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("unbiased", [True, False])
def test_next_to_nothing_leaves_finite_statistics(count: int, unbiased: bool) -> None:
    norm = made(unbiased)
    assert norm(elements(count)).shape == (count, 5)
    assert bool(norm.running_mean.isfinite().all() and norm.running_var.isfinite().all())
    if not count:  # a batch without elements says nothing about them
        assert torch.equal(norm.running_mean, torch.zeros(5))
        assert torch.equal(norm.running_var, torch.ones(5))


def test_half_precision_counts_in_float32() -> None:
    norm = SequenceBatchNorm(1)
    x = torch.full((4000, 1), 3.0, dtype=torch.bfloat16)
    x[0] = 4
    out = norm(x)
    assert out.dtype == torch.bfloat16
    assert float(norm.running_mean) == pytest.approx(0.1 * (3 + 1 / 4000), rel=1e-5)


@pytest.mark.parametrize("sizes", [(23, 0), (11, 12), (1, 22), (7, 9, 7)], ids=str)
@pytest.mark.parametrize("unbiased", [True, False])
def test_workers_see_one_batch(sizes: tuple[int, ...], unbiased: bool) -> None:
    upstream = torch.randn(23, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def run(norm: SequenceBatchNorm, rows: Tensor, weights: Tensor) -> list[Tensor]:
        rows = rows.clone().requires_grad_()
        out = norm(rows)
        (out * weights).sum().backward()
        assert rows.grad is not None
        assert norm.weight.grad is not None
        assert norm.bias.grad is not None
        return [out.detach(), rows.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]

    def work(collectives: ThreadCollectives) -> list[Tensor]:
        norm = made(unbiased)
        norm.collectives = collectives
        return run(norm, elements().split(sizes)[collectives.rank], upstream.split(sizes)[collectives.rank])

    alone, together = run(made(unbiased), elements(), upstream), in_threads(len(sizes), work)
    assert_as_one(together, alone)
