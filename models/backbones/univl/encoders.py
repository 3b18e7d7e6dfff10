"""The four parts of UniVL: text, visual and cross encoder, and the decoder.

Shape legend: n samples, W words, F frames, D width of a frame's feature, H hidden, V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.layers import EPS, MASKED, DecoderLayer, Encoder, KeysValues, Predictions, mask_bias


class _Pooler(nn.Module):
    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)


class _Normed(nn.Module):
    """What every embedding ends with."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden, EPS)
        self.dropout = nn.Dropout(config.dropout)

    def end(self, x: Tensor) -> Tensor:
        ended: Tensor = self.dropout(self.LayerNorm(x))
        return ended


def _places(x: Tensor, start: int = 0) -> Tensor:
    return torch.arange(start, start + x.shape[1], device=x.device)


class TextEmbeddings(_Normed):
    def __init__(self, config: UniVLConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.position_embeddings = nn.Embedding(config.text_positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(2, config.hidden)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        return self.end(
            self.word_embeddings(ids) + self.position_embeddings(_places(ids)) + self.token_type_embeddings(types)
        )


class TextEncoder(nn.Module):
    """BERT; its pooler is in the checkpoints and feeds no loss."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config, config.text_layers)
        self.pooler = _Pooler(config)

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """(n, W) each -> (n, W, H)."""
        x = self.embeddings(ids, types)
        encoded: Tensor = self.encoder(x, mask_bias(mask, x.dtype))
        return encoded


class VisualEmbeddings(_Normed):
    def __init__(self, config: UniVLConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Linear(config.video_dim, config.hidden)
        self.position_embeddings = nn.Embedding(config.visual_positions, config.hidden)

    def forward(self, video: Tensor) -> Tensor:
        return self.end(self.word_embeddings(video) + self.position_embeddings(_places(video)))


class VisualEncoder(nn.Module):
    """A transformer over frame features; its pooler feeds no loss either."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.embeddings = VisualEmbeddings(config)
        self.encoder = Encoder(config, config.visual_layers)
        self.pooler = _Pooler(config)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Normalised features (n, F, D) and their mask (n, F) -> (n, F, H)."""
        x = self.embeddings(video)
        encoded: Tensor = self.encoder(x, mask_bias(mask, x.dtype))
        return encoded


class CrossEmbeddings(_Normed):
    def __init__(self, config: UniVLConfig) -> None:
        super().__init__(config)
        self.position_embeddings = nn.Embedding(config.cross_positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(2, config.hidden)

    def forward(self, x: Tensor, start: int, kind: int) -> Tensor:
        """One modality, whose places begin at `start`; `kind`: 0 text, 1 video."""
        kinds = torch.full((1,), kind, device=x.device)
        return self.end(x + self.position_embeddings(_places(x, start)) + self.token_type_embeddings(kinds))


class CrossEncoder(nn.Module):
    """A transformer over text and frames together."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.embeddings = CrossEmbeddings(config)
        self.encoder = Encoder(config, config.cross_layers)
        self.pooler = _Pooler(config)

    def forward(self, text: Tensor, video: Tensor, mask: Tensor, places: int | None = None) -> Tensor:
        """(n, W, H), (n, F, H) and the mask of both (n, W+F) -> (n, W+F, H).

        `places`: where the frames' places begin; W unless said.
        """
        start = text.shape[1] if places is None else places
        x = torch.cat([self.embeddings(text, 0, 0), self.embeddings(video, start, 1)], 1)
        encoded: Tensor = self.encoder(x, mask_bias(mask, x.dtype))
        return encoded

    def pool(self, encoded: Tensor) -> Tensor:
        """(n, W+F, H) -> (n, H)."""
        return torch.tanh(self.pooler.dense(encoded[:, 0]))

    def projected(self, x: Tensor, start: int, kind: int) -> tuple[Tensor, ...]:
        """One modality (n, L, H) -> its embedding and the first layer's queries, keys and values of it.

        None of them depends on the other modality, so the pairs of a batch can share them.
        """
        embedded = self.embeddings(x, start, kind)
        return embedded, *self.encoder.first.attention.self.project(embedded)

    def pooled_pairs(
        self, text: tuple[Tensor, ...], video: tuple[Tensor, ...], text_mask: Tensor, video_mask: Tensor
    ) -> Tensor:
        """k texts and m videos, each `projected`, with their masks -> (k*m, H), the pooled state of every pair."""
        k, m = len(text_mask), len(video_mask)

        def pairs(of_text: Tensor, of_video: Tensor, along: int) -> Tensor:
            left = of_text[:, None].expand(-1, m, *of_text.shape[1:])
            right = of_video[None].expand(k, -1, *of_video.shape[1:])
            return torch.cat([left, right], along).flatten(0, 1)

        embedded, *projections = (
            pairs(t, v, 2 if number == 0 else 3) for number, (t, v) in enumerate(zip(text, video, strict=True))
        )
        bias = mask_bias(pairs(text_mask, video_mask, 2), embedded.dtype)
        query, key, value = projections
        others = list(self.encoder.layer)[1:]
        x = self.encoder.first.finish(embedded, (query, key, value), bias, first_only=not others)
        for number, layer in enumerate(others, start=1):
            x = layer(x, bias, number == len(others))  # of the last layer nothing but the first place is pooled
        return self.pool(x)


class DecoderEmbeddings(_Normed):
    def forward(self, ids: Tensor, places: Tensor, text: TextEmbeddings) -> Tensor:
        """Words and places are those of the text encoder."""
        return self.end(text.word_embeddings(ids) + text.position_embeddings(places))


class _Layers(nn.Module):
    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))


class Heads(nn.Module):
    """One vocabulary head under the name `predictions`."""

    def __init__(self, config: UniVLConfig, outputs: int) -> None:
        super().__init__()
        self.predictions = Predictions(config, outputs)


class _Classifier(nn.Module):
    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.cls = Heads(config, config.vocabulary)


class Decoder(nn.Module):
    """A causal transformer that sees the cross encoder's output."""

    def __init__(self, config: UniVLConfig) -> None:
        super().__init__()
        self.embeddings = DecoderEmbeddings(config)
        self.decoder = _Layers(config)
        self.classifier = _Classifier(config)

    def forward(self, ids: Tensor, mask: Tensor, text: TextEmbeddings, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Tokens (n, W) with their mask, the text embeddings, and the memory (n, L, H) -> states (n, W, H)."""
        x: Tensor = self.embeddings(ids, _places(ids), text)
        words = ids.shape[1]
        later = torch.ones(words, words, dtype=torch.bool, device=ids.device).triu(1)
        hidden = later | (mask == 0)[:, None]
        bias = torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, MASKED)[:, None]
        for layer in self.decoder.layer:
            x = layer(x, bias, memory, mask_bias(memory_mask, x.dtype))
        return x

    def remember(self, memory: Tensor) -> list[KeysValues]:
        """The memory (n, L, H) as each layer of `step` wants it."""
        return [cast(DecoderLayer, layer).remember(memory) for layer in self.decoder.layer]

    def step(
        self, ids: Tensor, past: list[KeysValues], text: TextEmbeddings, memory: list[KeysValues], memory_mask: Tensor
    ) -> tuple[Tensor, list[KeysValues]]:
        """The next word (n, b) of each of b beams -> states (n, b, H), and what the step after it wants as `past`.

        `past`: empty at first. As `forward` computes them from all words, at a cost that does not grow with them.
        """
        place = past[0][0].shape[2] if past else 0
        x: Tensor = self.embeddings(ids, torch.full_like(ids, place), text)
        bias = mask_bias(memory_mask, x.dtype)
        longer = []
        for number, (layer, seen) in enumerate(zip(self.decoder.layer, memory, strict=True)):
            x, kept = cast(DecoderLayer, layer).step(x, past[number] if past else None, seen, bias)
            longer.append(kept)
        return x, longer
