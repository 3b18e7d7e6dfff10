"""The toy problem of the conformance vectors: weights and inputs by formula, the rest read from the file."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.meltr.machine import Evaluate, Network
from models.meltr.transformer import LossTransformer, LossTransformerConfig

NAMES = {
    "task_embedding": "task_embedding",
    "loss_fc1": "value_in",
    "loss_fc2": "value_out",
    "encoder.self_attn.in_proj": "attention_in",
    "encoder.self_attn.out_proj": "attention_out",
    "encoder.linear1": "feed_in",
    "encoder.linear2": "feed_out",
    "encoder.norm1": "norm1",
    "encoder.norm2": "norm2",
    "fc1": "head",
}
"""Public names of the loss transformer's parts -> ours."""


def read(root: Path) -> dict[str, Any]:
    with (root / "meltr.json").open(encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def ours(name: str) -> str:
    """Our name of a parameter of the public loss transformer."""
    part = max((key for key in NAMES if name.startswith(key)), key=len)
    return NAMES[part] + "." + name[len(part) :].lstrip("._")


def _fill(parameter: Tensor, scale: float, number: int, fill: dict[str, Any]) -> None:
    k = torch.arange(parameter.numel(), dtype=torch.float64)
    with torch.no_grad():
        parameter.copy_((scale * torch.sin(fill["a"] * k + fill["b"] * number + fill["c"])).view_as(parameter))


def loss_transformer(golden: dict[str, Any]) -> LossTransformer:
    sizes, fill = golden["sizes"], golden["fill"]
    config = LossTransformerConfig(
        width=sizes["d"], feed_forward=sizes["ffn"], value_hidden=sizes["h1"], heads=sizes["heads"]
    )
    network = LossTransformer(config, golden["tasks"]).double()
    parameters = dict(network.named_parameters())
    for number, (name, shape) in enumerate(golden["meltr_parameters_in_order"]):
        parameter = parameters[ours(name)]
        assert list(parameter.shape) == shape, name
        _fill(parameter, fill["meltr_scale"], number, fill)
        if "norm" in name and name.endswith("weight"):
            with torch.no_grad():
                parameter.add_(1)
    return network


class Toy(nn.Module):
    """x (n, 6) -> logits of four tasks (4, n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(8, 5) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.trunk(x)
        return torch.stack([head(hidden) for head in self.heads])


def toy(golden: dict[str, Any]) -> Toy:
    network, fill = Toy().double(), golden["fill"]
    parameters = list(network.parameters())
    assert len(parameters) == len(golden["net_parameters_in_order"])
    for number, parameter in enumerate(parameters):
        _fill(parameter, fill["network_scale"], number + fill["network_j_offset"], fill)
    return network


def batch(rows: int, frequency: float, cosine: bool, label: tuple[int, int, int]) -> Evaluate:
    """The four losses of a batch whose row i has label (a i + b t + c) mod 5 for task t."""
    angle = frequency * torch.arange(rows * 6, dtype=torch.float64)
    x = (torch.cos(angle) if cosine else torch.sin(angle)).view(rows, 6)
    a, b, c = label
    labels = torch.tensor([[(a * i + b * t + c) % 5 for i in range(rows)] for t in range(4)])

    def losses(network: Network) -> Tensor:
        return torch.stack([F.cross_entropy(*pair) for pair in zip(network(x), labels, strict=True)])

    return losses


TRAINING = batch(10, 0.3, False, (3, 2, 0))
SECOND = batch(7, 0.21, True, (2, 1, 1))


def first(tensor: Tensor, count: int) -> list[float]:
    return tensor.detach().flatten()[:count].tolist()


def close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
