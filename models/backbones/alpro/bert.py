"""BERT in two halves: the first layers see text alone, the others text and video together.

Shape legend: k texts or pairs, X tokens, Y tokens of a video, H hidden, V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.backbones.alpro.config import TEXT_LAYERS, ALPROConfig
from models.backbones.bert import initialise
from models.backbones.univl.encoders import Heads, TextEmbeddings
from models.backbones.univl.layers import Encoder, EncoderLayer, mask_bias


class Bert(nn.Module):
    """Embeddings and layers, without a pooler. UniVL's have the names and the mathematics, and take no texts at all,
    which those of `transformers` do not."""

    def __init__(self, config: ALPROConfig, vocabulary: int, layers: int) -> None:
        super().__init__()
        sizes = config.bert(vocabulary)
        self.embeddings = TextEmbeddings(sizes)
        self.encoder = Encoder(sizes, layers)
        self.apply(initialise)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(k, X) each -> (k, X, H), by the layers that see text alone."""
        x = self.embeddings(ids, torch.zeros_like(ids))
        bias = mask_bias(mask, x.dtype)
        for layer in list(self.encoder.layer)[:TEXT_LAYERS]:
            x = layer(x, bias)
        return cast(Tensor, x)

    def fuse(self, text: Tensor, mask: Tensor, video: Tensor, first_only: bool = False) -> Tensor:
        """(k, X, H) with its mask (k, X), and (k, Y, H) -> (k, X+Y, H), or with `first_only` the state at [CLS],
        (k, 1, H)."""
        x = torch.cat([text, video], 1)
        bias = mask_bias(torch.cat([mask, mask.new_ones(video.shape[:2])], 1), x.dtype)
        layers = [cast(EncoderLayer, layer) for layer in list(self.encoder.layer)[TEXT_LAYERS:]]
        for layer in layers:
            x = layer(x, bias, first_only and layer is layers[-1])
        return x


class TextEncoder(nn.Module):
    """BERT and its head for masked words, whose table is that of the embeddings."""

    def __init__(self, config: ALPROConfig, vocabulary: int) -> None:
        super().__init__()
        self.bert = Bert(config, vocabulary, TEXT_LAYERS + config.cross_layers)
        self.cls = Heads(config.bert(vocabulary), vocabulary)
        self.cls.apply(initialise)

    def words(self, states: Tensor) -> Tensor:
        """(k, H) -> scores over the vocabulary (k, V)."""
        scores: Tensor = self.cls.predictions(states, self.bert.embeddings.word_embeddings.weight)
        return scores
