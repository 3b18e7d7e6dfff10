"""Contrastive pre-training: what reads clips and snippets learns which belong together, before NeuMATCH does.

InfoNCE (van den Oord et al., 2018) over the matched pairs of the training movies, and over captioned videos where a
recipe names some. With `model.lookahead` its two towers are trained; else NeuMATCH's own encoders, through linear maps
into a joint space that are thrown away afterwards. Shape legend: P pairs, B pairs of a batch, n clips, m texts.
"""

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import StrictConfig
from models.neumatch.network import NeuMATCH
from models.neumatch.pairs import PairTable


class ContrastiveConfig(StrictConfig):
    """How long and how. Each epoch is one pass over all pairs."""

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=256, ge=2)
    rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Of the clips' features."""


def contrastive_loss(logits: Tensor, snippet: Tensor) -> Tensor:
    """InfoNCE in both directions, in which the other pairs of a pair's own snippet are not its negatives.

    They leave the denominator. Merely sharing the target among them would change nothing: pairs of one snippet have
    the same text, so the shares add up to plain InfoNCE, which pushes a snippet's own clips away from it.

    Args:
        logits: (B, B) scaled cosines, clip by snippet.
        snippet: (B,) the snippet of each pair.
    """
    pair = torch.arange(len(snippet), device=snippet.device)
    same = (snippet[:, None] == snippet) & (pair[:, None] != pair)
    logits = logits.masked_fill(same, -math.inf)
    return (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair)) / 2


def pretrain(
    network: NeuMATCH,
    table: PairTable,
    config: ContrastiveConfig,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> None:
    """Trains the network's towers or encoders in place, on the CPU or wherever it is.

    A function of its arguments alone; torch's global random state stays as it was.
    """
    device = network.fc1.weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        towers = _Towers(network).to(device)
        optimiser = torch.optim.AdamW(towers.parameters(), lr=config.rate, weight_decay=config.weight_decay)
        for epoch in range(config.epochs):
            total = 0.0
            for chosen in torch.randperm(len(table.rows)).split(config.batch_size):
                clip, text = table.rows[chosen].unbind(1)
                video = F.dropout(table.video[clip].to(device), config.dropout)
                logits = towers(video, table.text[text].to(device))
                loss = contrastive_loss(logits, table.group[chosen].to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(chosen)
            if say is not None:
                say(f"contrastive pre-training, epoch {epoch + 1}/{config.epochs}: loss {total / len(table.rows):.3f}")
    network.zero_grad(set_to_none=True)


class _Towers(nn.Module):
    """Scaled cosines of clips and texts from the parts of a network that are trained."""

    def __init__(self, network: NeuMATCH) -> None:
        super().__init__()
        self.video: nn.Module
        self.text: nn.Module
        if network.config.lookahead is not None:
            ahead = network.lookahead
            self.video, self.text, self.log_scale = ahead.video, ahead.text, ahead.log_scale
            return
        width = network.config.width
        self.video = nn.Sequential(network.encoders.video, nn.Linear(width, width))
        self.text = nn.Sequential(network.encoders.text, nn.Linear(width, width))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(0.1)))

    def forward(self, video: Tensor, text: Tensor) -> Tensor:
        """(B, d_video), (B, d_text) -> (B, B)."""
        clips, texts = F.normalize(self.video(video), dim=1), F.normalize(self.text(text), dim=1)
        return clips @ texts.T * self.log_scale.exp().clamp(max=100)
