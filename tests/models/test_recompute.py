"""Recomputed blocks and parts give the numbers of plain ones: values, gradients, statistics, forward mode, dropout."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import recompute as module
from models.backbones.resnet import Block, ResNet, ResNetConfig
from models.meltr.machine import Network, OneProcess
from models.recompute import in_parts, recompute


def made(recomputed: bool) -> ResNet:
    torch.manual_seed(0)
    network = ResNet(ResNetConfig(depth=8, widths=(3, 4, 5)), classes=3).double()
    if recomputed:
        recompute(network.blocks())
    return network


def losses(network: Network) -> Tensor:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    classes, rotations = network(images)
    return torch.stack([classes.square().mean(), rotations.square().mean()])


def test_gradients_statistics_and_forward_mode() -> None:
    both = [made(recomputed) for recomputed in (False, True)]
    assert len(both[0].blocks()) == 3
    assert all(isinstance(block, Block) for block in both[0].blocks())
    graphs = [losses(network) for network in both]
    found = []
    for network, graph in zip(both, graphs, strict=True):
        machine = OneProcess(network)
        # Twice through one graph, as the ways of a hypergradient do, then forward mode.
        gradients = [machine.gradient(losses, weights, graph) for weights in torch.eye(2, dtype=torch.float64)]
        slopes = machine.forward_derivatives(losses, gradients[0])
        found.append([graph.detach(), *gradients[0], *gradients[1], slopes, *network.buffers()])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-12, atol=1e-14)


def test_less_is_kept() -> None:
    kept = []
    for recomputed in (False, True):
        network, sizes = made(recomputed), [0]

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses(network)
        kept.append(sizes[0])
    assert kept[1] < kept[0]


def parts_with_dropout(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values of parts, and what they say of `rows` going backward: twice what was not dropped."""
    rows = rows.clone().requires_grad_()
    values = torch.cat(in_parts(lambda part: F.dropout(rows[part], 0.5), rows, count))
    (gradient,) = torch.autograd.grad(values.sum(), rows)
    return values.detach(), gradient


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_parts_drop_the_same_again(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    values, gradient = parts_with_dropout(torch.ones(64, 8, device=device), 3)
    assert 0 < int((values == 0).sum()) < values.numel()
    assert torch.equal(values, gradient)


def test_the_random_state_of_the_samples_device_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch finds the devices in what is given to its checkpoint; a GPU is needed to see what follows from it."""
    given: list[Any] = []

    def noting(compute: Any, *inputs: Any, use_reentrant: bool) -> Any:
        given.append(inputs)
        return compute(*inputs)

    monkeypatch.setattr(module, "checkpoint", noting)
    rows = torch.ones(5, 2)
    assert [len(part) for part in in_parts(lambda part: rows[part], rows, 3)] == [1, 2, 2]
    assert len(given) == 3
    assert all(any(isinstance(value, Tensor) for value in inputs) for inputs in given)
