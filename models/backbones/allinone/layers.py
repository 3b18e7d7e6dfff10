"""The vision transformer that All-in-one puts everything through, its embeddings and heads, under official names.

Shape legend: n sequences, T frames, L tokens, X of them words, l = 1 + P of an image ([CLS] and patches), H hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.allinone.config import AllInOneConfig

VISION_EPS, TEXT_EPS = 1e-6, 1e-12
EXCHANGED = 8
"""Of an image's tokens, one in so many is exchanged with each of the neighbouring frames before every block."""
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Attention(nn.Module):
    """Multi-head self-attention, queries, keys and values from one linear map."""

    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.proj = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(n, L, H), and (n, L) bool of the tokens to be seen, of which every sequence has one -> (n, L, H)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return projected


class FeedForward(nn.Module):
    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden, config.intermediate)
        self.fc2 = nn.Linear(config.intermediate, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        fed: Tensor = self.fc2(self.dropout(F.gelu(self.fc1(x))))
        return fed


class Block(nn.Module):
    """One pre-norm layer (Dosovitskiy et al., ICLR 2021), whose branches are at times left out in training."""

    def __init__(self, config: AllInOneConfig, left_out: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden, VISION_EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.hidden, VISION_EPS)
        self.mlp = FeedForward(config)
        self.dropout, self.left_out = nn.Dropout(config.dropout), left_out

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self._branch(self.attn(self.norm1(x), mask))
        return x + self._branch(self.mlp(self.norm2(x)))

    def _branch(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(x)
        if not self.training or not self.left_out:
            return dropped
        return dropped * F.dropout(x.new_ones(len(x), 1, 1), self.left_out)


class _Patches(nn.Module):
    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.hidden, config.patch, config.patch)


class VisionTransformer(nn.Module):
    """Blocks for all tokens; called, it makes tokens of frames."""

    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        side = config.image_size // config.patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, config.hidden))
        self.temporal_embed = nn.Parameter(torch.zeros(1, config.frames, config.hidden))
        self.patch_embed = _Patches(config)
        self.dropout = nn.Dropout(config.dropout)
        rates = torch.linspace(0, config.stochastic_depth, config.layers, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.hidden, VISION_EPS)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, T, 3, h, w), RGB from 0 to 1 -> (n, T, l, H), patches row by row."""
        mean, std = (frames.new_tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
        pixels = ((frames - mean) / std).to(self.pos_embed.dtype).flatten(0, 1)
        patches = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2])
        patches = patches + self.pos_embed[:, None, 1:] + self.temporal_embed[:, : frames.shape[1], None]
        first = (self.cls_token + self.pos_embed[:, :1])[:, None].expand(*frames.shape[:2], -1, -1)
        tokens: Tensor = self.dropout(torch.cat([first, patches], 2))
        return tokens


def in_order(tokens: Tensor, order: Tensor) -> Tensor:
    """(n, T, l, H) -> the same with patch order[r] at token 1 + r of each frame; order: (n, T, P)."""
    patches = tokens[:, :, 1:]
    return torch.cat([tokens[:, :, :1], patches.gather(2, order[..., None].expand_as(patches))], 2)


def rolled(x: Tensor, words: int) -> Tensor:
    """(n, T, L, H), the image's tokens after X words -> the same after frames have exchanged tokens.

    The first patches are those of the frame before, the last ones those of the next; the first frame follows the last
    (the paper's temporal token rolling).
    """
    image = x.shape[2] - words
    fold = image // EXCHANGED
    start, stop = words + 1 + fold, x.shape[2] - fold
    before, after = x[:, :, words + 1 : start].roll(1, 1), x[:, :, stop:].roll(-1, 1)
    return torch.cat([x[:, :, : words + 1], before, x[:, :, start:stop], after], 2)


class TextEmbeddings(nn.Module):
    """BERT's: words, places and the type that all words have."""

    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.position_embeddings = nn.Embedding(config.text_positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(2, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, TEXT_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, X) -> (n, X, H)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.word_embeddings(ids) + self.position_embeddings(places)
        x = x + self.token_type_embeddings(torch.zeros_like(places[:1]))
        embedded: Tensor = self.dropout(self.LayerNorm(x))
        return embedded


class Dense(nn.Module):
    """A linear map by a name of the official layout."""

    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)


class Pooler(Dense):
    def forward(self, x: Tensor) -> Tensor:
        """(n, H) -> (n, H)."""
        return torch.tanh(self.dense(x))


class _Transform(Dense):
    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__(config)
        self.LayerNorm = nn.LayerNorm(config.hidden, TEXT_EPS)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(F.gelu(self.dense(x)))
        return normed


class Predictions(nn.Module):
    """Scores over a vocabulary, whose table is the head's own."""

    def __init__(self, config: AllInOneConfig, outputs: int) -> None:
        super().__init__()
        self.transform = _Transform(config)
        self.decoder = nn.Linear(config.hidden, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(k, H) -> (k, outputs)."""
        scores: Tensor = self.decoder(self.transform(x)) + self.bias
        return scores


class PairScore(nn.Module):
    """Whether text and video belong together: no, yes."""

    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, H) -> (n, 2)."""
        scores: Tensor = self.fc(x)
        return scores


def classifier(config: AllInOneConfig, width: int, outputs: int, dropout: float) -> nn.Sequential:
    """(n, H) -> (n, outputs); its parts are known by number in the official layout."""
    layers = nn.Linear(config.hidden, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, outputs)
    return nn.Sequential(nn.Dropout(dropout), *layers)
