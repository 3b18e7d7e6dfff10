"""Low-rank adaptation: nothing changes at the start, little is trained, and derivatives of all kinds go through it."""

import torch

from models.backbones.univl.network import LOSSES
from models.lora import LoRAConfig, adapt
from models.meltr.machine import Network, OneProcess
from tests.models.backbones.univl import small
from tests.support.directions import slopes


def evaluate(network: Network) -> torch.Tensor:
    losses = network(small.batch(), LOSSES)
    return torch.stack([losses[name] for name in LOSSES])


def test_starts_where_it_was_and_moves_only_a_little_of_it() -> None:
    whole, adapted = small.network(), small.network()
    adapt(adapted, LoRAConfig(rank=2), ("query", "value"), ("similarity_dense",))
    adapted.double()
    torch.testing.assert_close(evaluate(adapted), evaluate(whole))
    trained = [name for name, _ in adapted.named_parameters()]
    assert all("lora_" in name or name.startswith("similarity_dense") for name in trained)
    assert {name.split(".")[0] for name in trained} == {"bert", "visual", "cross", "decoder", "similarity_dense"}
    assert all(parameter.requires_grad for parameter in adapted.parameters())
    counts = [sum(p.numel() for p in network.parameters()) for network in (adapted, whole)]
    assert counts[0] < counts[1] / 5


def test_forward_mode_is_the_gradients_product() -> None:
    network = small.network()
    adapt(network, LoRAConfig(rank=2), ("query", "value"))
    machine = OneProcess(network.double())
    with torch.no_grad():
        for _, parameter in machine.named:  # away from the start, where one of the matrices is zero
            parameter.add_(0.3 * torch.randn_like(parameter))
    found, expected = slopes(machine, evaluate)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
