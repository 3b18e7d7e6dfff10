"""The loss transformer and its ablations: named loss values in, one unified loss out (CVPR 2023, section 3.1).

Shape legend: T losses (tasks), d width of a token.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import StrictConfig

HEADS = 8


class LossTransformerConfig(StrictConfig):
    """Sizes of the loss transformer. Defaults are the paper's; `preset` gives those of the published runs."""

    form: Literal["transformer", "value_only", "task_only", "linear"] = "transformer"
    """`value_only`: tokens without the task embedding (the paper's "SE only"). `task_only`: without the embedding of
    loss values; the task embedding is multiplied by the value instead ("TE only"). `linear`: a learned linear
    combination (Table 10)."""
    width: int = Field(default=512, ge=1)
    feed_forward: int = Field(default=512, ge=1)
    value_hidden: int = Field(default=256, ge=1)
    heads: int = Field(default=HEADS, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> "LossTransformerConfig":
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        return self


PRESETS = {
    "paper": LossTransformerConfig(width=512, feed_forward=512, value_hidden=256),
    "univl": LossTransformerConfig(width=256, feed_forward=512, value_hidden=128),
    "violet_retrieval": LossTransformerConfig(width=512, feed_forward=512, value_hidden=256),
    "violet_qa": LossTransformerConfig(width=256, feed_forward=256, value_hidden=128),
    "allinone": LossTransformerConfig(width=128, feed_forward=128, value_hidden=128),
}
"""Sizes of the published runs."""


class LossTransformer(nn.Module):
    """M(l; phi): one post-norm encoder layer over T tokens, their mean, a linear map to one number.

    No dropout. Attention is written out, because MELTR is differentiated twice and fused attention cannot be.
    """

    def __init__(self, config: LossTransformerConfig, tasks: int) -> None:
        super().__init__()
        self.config, d = config, config.width
        self.task_embedding = nn.Embedding(tasks, d)
        self.value_in = nn.Linear(1, config.value_hidden)
        self.value_out = nn.Linear(config.value_hidden, d)
        self.attention_in = nn.Linear(d, 3 * d)
        self.attention_out = nn.Linear(d, d)
        self.norm1 = nn.LayerNorm(d)
        self.feed_in = nn.Linear(d, config.feed_forward)
        self.feed_out = nn.Linear(config.feed_forward, d)
        self.norm2 = nn.LayerNorm(d)
        self.head = nn.Linear(d, 1, bias=False)
        nn.init.xavier_uniform_(self.attention_in.weight)  # as torch's own attention layer starts
        nn.init.zeros_(self.attention_in.bias)
        nn.init.zeros_(self.attention_out.bias)

    def tokens(self, losses: Tensor) -> Tensor:
        """(..., T) -> (..., T, d)."""
        value, task = losses[..., None], self.task_embedding.weight
        if self.config.form == "task_only":
            return value * task
        embedded: Tensor = self.value_out(F.relu(self.value_in(value)))
        return embedded if self.config.form == "value_only" else embedded + task

    def forward(self, losses: Tensor) -> Tensor:
        """(..., T) loss values -> (...) unified losses."""
        x = self.tokens(losses)
        x = self.norm1(x + self._attend(x))
        x = self.norm2(x + self.feed_out(F.relu(self.feed_in(x))))
        unified: Tensor = self.head(x.mean(-2))[..., 0]
        return unified

    def _attend(self, x: Tensor) -> Tensor:
        heads, width = self.config.heads, self.config.width // self.config.heads
        query, key, value = (
            part.unflatten(-1, (heads, width)).transpose(-2, -3) for part in self.attention_in(x).chunk(3, -1)
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(width)).softmax(-1)
        mixed: Tensor = self.attention_out((weights @ value).transpose(-2, -3).flatten(-2))
        return mixed


class LinearCombination(nn.Module):
    """M(l; phi) = sum_t phi_t l_t: the simplest learned loss (Table 10)."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((tasks,), 1.0 / tasks))

    def forward(self, losses: Tensor) -> Tensor:
        """(..., T) loss values -> (...) unified losses."""
        return (losses * self.weight).sum(-1)


def loss_network(config: LossTransformerConfig, tasks: int, seed: int) -> nn.Module:
    """The learned loss that a configuration names, initialised from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearCombination(tasks) if config.form == "linear" else LossTransformer(config, tasks)


def unified_and_coefficients(network: nn.Module, losses: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Loss values (..., T) -> the unified loss (...) and c_t = dM/dl_t (..., T).

    With `create_graph` both can be differentiated with respect to phi; the loss values are constants either way.
    """
    with torch.enable_grad():
        at = losses.detach().requires_grad_()
        unified = network(at)
        (coefficients,) = torch.autograd.grad(unified.sum(), at, create_graph=create_graph)
    if create_graph:
        return unified, coefficients
    return unified.detach(), coefficients.detach()


def fit_to_sum(
    network: nn.Module, low: Tensor, high: Tensor, steps: int = 600, rate: float = 1e-3, seed: int = 0
) -> float:
    """Fits phi to the plain sum of losses, values and derivatives, over low..high (each (T,)), before training.

    At random initialisation the c_t are near zero and about half of them negative: training would ascend those losses
    at first. After the fit every c_t starts near 1. Returns the largest |c_t - 1| on fresh points of the range.
    """
    device, dtype = low.device, next(network.parameters()).dtype
    source = torch.Generator().manual_seed(seed)

    def points(count: int) -> Tensor:
        uniform = torch.rand(count, len(low), generator=source).to(device, dtype)
        return low.to(dtype) + (high - low).to(dtype) * uniform

    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    scale = float(len(low)) * float((high - low).abs().mean().clamp(min=1e-3))  # so that values weigh like derivatives
    for _ in range(steps):
        at = points(64).requires_grad_()
        unified = network(at)
        (coefficients,) = torch.autograd.grad(unified.sum(), at, create_graph=True)
        loss = ((unified - at.detach().sum(-1)) / scale).square().mean() + (coefficients - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    optimiser.zero_grad()
    return float((unified_and_coefficients(network, points(256))[1] - 1).abs().max())
