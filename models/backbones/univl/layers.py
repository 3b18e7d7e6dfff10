"""BERT's post-norm layers (Devlin et al. 2019) under the names of the official UniVL checkpoints.

Written out rather than taken from transformers: the cross encoder needs a layer's projections apart from its attention
(see network.py), and the decoder's layers have other names and masks than any of its models.

Shape legend: n sequences, L positions, H hidden, a heads of d = H/a.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.univl.config import UniVLConfig

EPS = 1e-12
MASKED = -10000.0
"""Added to the logits of masked keys; every floating-point type can hold it, and a row without keys stays finite."""

Projections = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each (n, a, L, d)."""
KeysValues = tuple[Tensor, Tensor]


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, L) of 1 for keys to see, 0 for others -> (n, 1, 1, L), to be added to attention logits."""
    return (1 - mask.to(dtype))[:, None, None] * MASKED


class WideLayerNorm(nn.LayerNorm):
    """A layer norm of features of any scale: taken in float32 at least, given in the type of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


class Attention(nn.Module):
    """Multi-head attention without its output map."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value = (nn.Linear(config.hidden, config.hidden) for _ in range(3))

    def project(self, x: Tensor, memory: Tensor | None = None) -> Projections:
        """(n, L, H), and another sequence to take keys and values from (default: the same) -> queries, keys, values."""
        source = x if memory is None else memory
        query, key, value = (self.split(part) for part in (self.query(x), self.key(source), self.value(source)))
        return query, key, value

    def split(self, x: Tensor) -> Tensor:
        """(n, L, H) -> (n, a, L, d)."""
        heads: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads

    def mix(self, projections: Projections, bias: Tensor | None) -> Tensor:
        """-> (n, L, H)."""
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*projections, attn_mask=bias, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(-2)


class ResidualOutput(nn.Module):
    """LN(residual + dropout(dense(x)))."""

    def __init__(self, width: int, config: UniVLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(residual + self.dropout(self.dense(x)))
        return normed


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)


class FeedForward(nn.Module):
    """What encoder and decoder layers end with."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.intermediate = _Dense(config.hidden, config.intermediate)
        self.output = ResidualOutput(config.intermediate, config)

    def feed(self, x: Tensor) -> Tensor:
        """(n, L, H) -> the same shape."""
        fed: Tensor = self.output(F.gelu(self.intermediate.dense(x)), x)
        return fed


class SelfAttention(nn.Module):
    """Attention (named `self` in the checkpoints) and its output map."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.self = Attention(config)
        self.output = ResidualOutput(config.hidden, config)


class EncoderLayer(FeedForward):
    """One layer of the text, visual and cross encoders."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__(config)
        self.attention = SelfAttention(config)

    def forward(self, x: Tensor, bias: Tensor, first_only: bool = False) -> Tensor:
        """(n, L, H) -> the same shape, or with `first_only` its first position alone, (n, 1, H)."""
        return self.finish(x, self.attention.self.project(x), bias, first_only)

    def finish(self, x: Tensor, projections: Projections, bias: Tensor, first_only: bool = False) -> Tensor:
        """What follows the projections of x."""
        if first_only:
            x, projections = x[:, :1], (projections[0][:, :, :1], *projections[1:])
        return self.feed(self.attention.output(self.attention.self.mix(projections, bias), x))


class Encoder(nn.Module):
    """A stack of layers."""

    def __init__(self, config: UniVLConfig, layers: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(EncoderLayer(config) for _ in range(layers))

    @property
    def first(self) -> EncoderLayer:
        """The layer that sees the embeddings."""
        return cast(EncoderLayer, self.layer[0])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, bias)
        return x


class DecoderAttention(nn.Module):
    """Attention and its output map under the decoder's names."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.att = Attention(config)
        self.output = ResidualOutput(config.hidden, config)

    def forward(self, x: Tensor, memory: Tensor | None, bias: Tensor) -> Tensor:
        mixed: Tensor = self.output(self.att.mix(self.att.project(x, memory), bias), x)
        return mixed


class DecoderLayer(FeedForward):
    """Self attention, attention to the encoders' output, feed-forward.

    Shape legend of `step`: n samples of b beams each, t places decoded already, L places of the memory.
    """

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__(config)
        self.slf_attn, self.enc_attn = DecoderAttention(config), DecoderAttention(config)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor, memory_bias: Tensor) -> Tensor:
        return self.feed(self.enc_attn(self.slf_attn(x, None, bias), memory, memory_bias))

    def remember(self, memory: Tensor) -> KeysValues:
        """(n, L, H) -> its keys and values, which all steps and beams of a sample share."""
        return self.enc_attn.att.project(memory)[1:]

    def step(self, x: Tensor, past: KeysValues | None, memory: KeysValues, bias: Tensor) -> tuple[Tensor, KeysValues]:
        """One place (n, b, H) more -> its states (n, b, H), and `past` with it, each (n*b, a, t+1, d).

        `memory`: (n, a, L, d) each, with the bias (n, 1, 1, L) of its mask.
        """
        beams = x.flatten(0, 1)[:, None]
        query, key, value = self.slf_attn.att.project(beams)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        own = self.slf_attn.output(self.slf_attn.att.mix((query, key, value), None), beams).view(x.shape)
        attention = self.enc_attn.att
        mixed = attention.mix((attention.split(attention.query(own)), *memory), bias)
        return self.feed(self.enc_attn.output(mixed, own)), (key, value)


class Transform(nn.Module):
    """LN(gelu(dense(x))), which comes before each output vocabulary."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, EPS)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(F.gelu(self.dense(x)))
        return normed


class Predictions(nn.Module):
    """Scores over a vocabulary whose table belongs to an embedding: transform, product with the table, own bias."""

    def __init__(self, config: UniVLConfig, outputs: int) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(k, H) and a table (outputs, H) -> (k, outputs)."""
        return F.linear(self.transform(x), table, self.bias)
