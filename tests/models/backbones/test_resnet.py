"""ResNet for small images: its size, its shortcuts, one batch over workers, and the derivatives it must have."""

from collections.abc import Sequence

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.normalisation import GlobalBatchNorm2d
from models.backbones.resnet import Block, ResNet, ResNetConfig
from models.meltr.statistics import frozen_statistics
from models.normalisation import synchronise
from tests.reference.threads import ThreadCollectives, in_threads

SMALL = ResNetConfig(depth=8, widths=(3, 4, 5))


def made(config: ResNetConfig = SMALL, classes: int = 7) -> ResNet:
    torch.manual_seed(0)
    return ResNet(config, classes).double()


def images(count: int = 5, side: int = 9) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=source)


def by_formula(depth: int, widths: Sequence[int]) -> int:
    """Weights up to the heads: 3x3 convolutions without biases, each followed by two numbers a channel."""
    layers, before = [(3, widths[0])], widths[0]
    for width in widths:
        for _ in range((depth - 2) // 3):
            layers.append((before, width))
            before = width
    return sum(9 * inputs * outputs + 2 * outputs for inputs, outputs in layers)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_sizes_of_the_paper(depth: int, millions: float) -> None:
    network = ResNet(ResNetConfig(depth=depth), 10)
    trunk = sum(value.numel() for part in (network.conv, network.norm, network.stages) for value in part.parameters())
    assert trunk == by_formula(depth, (16, 32, 64))
    assert round((trunk + 650) / 1e6, 2) == millions  # table 6; 650 for the ten classes
    assert sum(value.numel() for value in network.parameters()) == trunk + 650 + 260
    # Convolutions and one of the heads: as many layers with weights as the name says.
    assert sum(isinstance(part, nn.Conv2d) for part in network.modules()) + 1 == depth


def test_heads_and_shapes() -> None:
    network = ResNet(ResNetConfig(), 100).eval()
    assert sum(value.numel() for value in network.parameters()) == 463_504 + 6_500 + 260
    classes, rotations = network(images(2, 32).float())
    assert (classes.shape, rotations.shape) == ((2, 100), (2, 4))
    assert made()(images(3, 8))[0].shape == (3, 7)


@pytest.mark.parametrize("stride", [1, 2])
def test_shortcut_keeps_the_input(stride: int) -> None:
    block = Block(3, 5, stride)
    nn.init.zeros_(block.norm2.weight)  # the residual is then nothing
    x = images(2, 7).float()
    expected = torch.zeros(2, 5, -(-7 // stride), -(-7 // stride))
    for row in range(expected.shape[2]):
        for column in range(expected.shape[3]):
            expected[:, :3, row, column] = x[:, :, stride * row, stride * column].relu()
    assert torch.equal(block(x), expected)


def test_both_heads_read_one_set_of_features() -> None:
    network = made().eval()
    x = F.relu(network.norm(network.conv(images())))
    for stage in network.stages:
        assert isinstance(stage, nn.Sequential)
        for block in stage:
            x = block(x)
    features = x.flatten(2).mean(2)
    for logits, head in zip(network(images()), (network.classes, network.rotation), strict=True):
        torch.testing.assert_close(logits, features @ head.weight.T + head.bias, rtol=1e-12, atol=1e-12)


def test_initialisation_keeps_the_scale() -> None:
    torch.manual_seed(0)
    network = ResNet(ResNetConfig(), 100)
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 4000:
            assert float(part.weight.detach().std()) == pytest.approx((2 / (9 * part.out_channels)) ** 0.5, rel=0.05)
    assert float(network.classes.weight.detach().std()) == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depth": 30}, r"depth=30 is not 6n\+2; use 26 or 32"),
        ({"depth": 2}, "greater than or equal to 8"),
        ({"widths": [16, 64, 32]}, r"widths=\(16, 64, 32\) must be positive and never shrink"),
        ({"widths": [0, 1, 2]}, "must be positive"),
        ({"width": 3}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_networks(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ResNetConfig.model_validate(settings)


def test_workers_see_one_batch() -> None:
    sizes = (2, 0, 3)

    def run(network: ResNet, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits = torch.cat(network(x), dim=1)
        logits.square().sum().backward()
        return logits.detach(), [value.grad for value in network.parameters() if value.grad is not None]

    def work(collectives: ThreadCollectives) -> tuple[Tensor, list[Tensor]]:
        synchronise(networks[collectives.rank], collectives)
        return run(networks[collectives.rank], images().split(sizes)[collectives.rank])

    networks = [made() for _ in sizes]  # not in the threads, which share one source of random numbers
    alone = made()
    logits, gradients = run(alone, images())
    together = in_threads(len(sizes), work)
    torch.testing.assert_close(torch.cat([worker[0] for worker in together]), logits, rtol=1e-9, atol=1e-10)
    for place, expected in enumerate(gradients):
        total = torch.stack([worker[1][place] for worker in together]).sum(0)
        torch.testing.assert_close(total, expected, rtol=1e-8, atol=1e-9)
    assert len(gradients) == len(list(alone.parameters()))
    for name, value in alone.named_buffers():
        for network in networks:
            torch.testing.assert_close(network.get_buffer(name), value, rtol=1e-10, atol=1e-12)


def test_directional_derivative() -> None:
    network = made()
    weights = {name: value.detach() for name, value in network.named_parameters()}
    source = torch.Generator().manual_seed(3)
    along = {name: torch.randn(value.shape, dtype=value.dtype, generator=source) for name, value in weights.items()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        with frozen_statistics(network):
            return torch.cat(torch.func.functional_call(network, weights, (images(),)), dim=1).square().mean()

    derivative = torch.func.jvp(loss, (weights,), (along,))[1]
    step = 1e-7
    above, below = (loss({name: weights[name] + sign * step * along[name] for name in weights}) for sign in (1, -1))
    torch.testing.assert_close(derivative, (above - below) / (2 * step), rtol=1e-5, atol=1e-8)
    # The same from the gradient, and a second derivative through it.
    value = torch.cat(network(images()), dim=1).square().mean()
    gradients = torch.autograd.grad(value, list(network.parameters()), create_graph=True)
    product = torch.stack([(g * along[n]).sum() for n, g in zip(weights, gradients, strict=True)]).sum()
    torch.testing.assert_close(product.detach(), derivative, rtol=1e-9, atol=1e-10)
    product.backward()
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in network.parameters())


def test_synchronise_reaches_every_normalisation() -> None:
    network = made()
    collectives = network.norm.collectives.__class__()
    synchronise(network, collectives)
    norms = [part for part in network.modules() if isinstance(part, GlobalBatchNorm2d)]
    assert len(norms) == 7
    assert all(part.collectives is collectives for part in norms)


def test_components() -> None:
    parts = [ResNet.component_of(name) for name, _ in made().named_parameters()]
    assert tuple(dict.fromkeys(parts)) == ResNet.COMPONENTS
    assert [parts.count(part) for part in ("stem", "stage_2", "classes")] == [3, 6, 2]
