"""Recomputed blocks give the numbers of plain ones: values, gradients, statistics, forward mode, several looks."""

import torch
from torch import Tensor

from models.backbones.resnet import Block, ResNet, ResNetConfig
from models.meltr.machine import Network, OneProcess
from models.recompute import recompute


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
