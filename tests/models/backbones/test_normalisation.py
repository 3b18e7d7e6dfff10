"""Batch normalisation beside PyTorch's own, over workers as over one whole batch, and its further derivatives."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from models.backbones.normalisation import GlobalBatchNorm2d
from models.meltr.statistics import frozen_statistics
from tests.reference.threads import ThreadCollectives, assert_as_one, in_threads

WEIGHT, BIAS = torch.linspace(0.5, 2, 3), torch.linspace(-1, 1, 3)
M = TypeVar("M", bound=nn.Module)


def prepared(norm: M) -> M:
    norm.double()
    with torch.no_grad():
        norm.get_parameter("weight").copy_(WEIGHT)
        norm.get_parameter("bias").copy_(BIAS)
    return norm


def made() -> GlobalBatchNorm2d:
    return prepared(GlobalBatchNorm2d(3))


def images(count: int = 6, seed: int = 4) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(count, 3, 4, 5, dtype=torch.float64, generator=source)


def outcome(norm: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Outputs, gradients of the input, weight and bias, and both running statistics."""
    x = x.clone().requires_grad_()
    norm.zero_grad()
    out = norm(x)
    (out * upstream).sum().backward()
    gradients = [value.grad for value in (x, norm.get_parameter("weight"), norm.get_parameter("bias"))]
    statistics = [norm.get_buffer("running_mean"), norm.get_buffer("running_var")]
    return [value.detach().clone() for value in (out, *gradients, *statistics) if value is not None]


def test_alone_it_is_pytorchs() -> None:
    ours, theirs = made(), prepared(nn.BatchNorm2d(3))
    for seed in (1, 2):  # twice, so that statistics are carried on
        for mine, expected in zip(
            outcome(ours, images(seed=seed), images(seed=9)),
            outcome(theirs, images(seed=seed), images(seed=9)),
            strict=True,
        ):
            torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
    ours.eval(), theirs.eval()
    before = ours.running_var.clone()
    for mine, expected in zip(
        outcome(ours, images(), images(seed=9)), outcome(theirs, images(), images(seed=9)), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(ours.running_var, before)


@pytest.mark.parametrize("sizes", [(6, 0), (3, 3), (1, 5), (2, 1, 3)], ids=str)
def test_workers_see_one_batch(sizes: tuple[int, ...]) -> None:
    def work(collectives: ThreadCollectives) -> list[Tensor]:
        norm = made()
        norm.collectives = collectives
        return outcome(norm, images().split(sizes)[collectives.rank], images(seed=9).split(sizes)[collectives.rank])

    alone, together = outcome(made(), images(), images(seed=9)), in_threads(len(sizes), work)
    assert_as_one(together, alone)


def test_a_batch_without_images() -> None:
    norm = made()
    assert norm(images(0)).shape == (0, 3, 4, 5)
    assert torch.equal(norm.running_mean, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(norm.running_var, torch.ones(3, dtype=torch.float64))


def test_half_precision_counts_in_float32() -> None:
    norm = GlobalBatchNorm2d(1).to(torch.bfloat16)
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    x = torch.full((1, 1, 50, 80), 3.0, dtype=torch.bfloat16)
    x[0, 0, 0, 0] = 4
    assert norm(x).dtype == torch.bfloat16
    assert float(norm.running_mean) == pytest.approx(0.1 * (3 + 1 / 4000), rel=1e-5)


def test_frozen_statistics_stay() -> None:
    first, last = made(), made()
    network = nn.Sequential(first, nn.ReLU(), nn.Sequential(last))
    last.frozen = True
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with frozen_statistics(network):
        frozen = network(images())
        assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    # The batch is still normalised by its own statistics.
    assert torch.equal(frozen, network(images()))
    assert not torch.equal(first.running_mean, before["0.running_mean"])
    assert torch.equal(last.running_mean, before["2.0.running_mean"])  # each flag is what it was
    with pytest.raises(KeyError), frozen_statistics(network):
        raise KeyError
    assert not first.frozen


# Further derivatives, beside differences


def loss_of(norm: GlobalBatchNorm2d) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A curved loss as a function of input, weight and bias."""

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with frozen_statistics(norm):
            out: Tensor = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))
        return (out.sigmoid() * images(seed=9)).sum()

    return loss


@pytest.mark.parametrize("training", [True, False])
def test_forward_mode(training: bool) -> None:
    norm = made().train(training)
    at = images(), WEIGHT.double(), BIAS.double()
    along = images(seed=7) - 3, torch.tensor([0.3, -1, 2]).double(), torch.tensor([1, 0.5, -0.2]).double()
    loss, step = loss_of(norm), 1e-6
    derivative = torch.func.jvp(loss, at, along)[1]
    above, below = (loss(*[a + sign * step * b for a, b in zip(at, along, strict=True)]) for sign in (1, -1))
    torch.testing.assert_close(derivative, (above - below) / (2 * step), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("training", [True, False])
def test_double_backward(training: bool) -> None:
    norm = made().train(training)
    inputs = tuple(value.requires_grad_() for value in (images(2), WEIGHT.double(), BIAS.double()))

    def out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with frozen_statistics(norm):
            result: Tensor = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))
        return result

    assert torch.autograd.gradcheck(out, inputs)
    assert torch.autograd.gradgradcheck(out, inputs)
