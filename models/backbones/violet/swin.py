"""The Video Swin Transformer (Liu et al., CVPR 2022) under the names of its official checkpoints.

Shape legend: B videos, T x H x W the grid of patches, C channels, a heads; K windows of N patches each.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.violet.config import VioletConfig

PATCH = (2, 4, 4)
"""Frames, rows and columns of pixels of a patch; patches follow each other by a single frame, so they overlap."""
APART = -100.0
"""Added to the logits of patches of one window that are no neighbours in the video; the official value."""

Triple = tuple[int, int, int]
"""Frames, rows, columns."""


def fitted(grid: Sequence[int], window: Triple) -> tuple[Triple, Triple]:
    """The window and the shift of shifted blocks in this grid: along an axis that a window spans, there is no shift."""
    sizes = [min(size, most) for size, most in zip(grid, window, strict=True)]
    shifts = [most // 2 if size > most else 0 for size, most in zip(grid, window, strict=True)]
    return (sizes[0], sizes[1], sizes[2]), (shifts[0], shifts[1], shifts[2])


def cut(x: Tensor, window: Triple) -> Tensor:
    """(B, T, H, W, C), a multiple of the window on each axis -> (B, K, N, C): frame by frame, row by row."""
    (t, h, w), (_, frames, rows, columns, channels) = window, x.shape
    x = x.view(len(x), frames // t, t, rows // h, h, columns // w, w, channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


def joined(x: Tensor, window: Triple, grid: Triple) -> Tensor:
    """The inverse of `cut`: (B, K, N, C) -> (B, T, H, W, C)."""
    counts = [size // side for size, side in zip(grid, window, strict=True)]
    x = x.view(len(x), *counts, *window, x.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def padded(grid: Sequence[int], window: Triple) -> Triple:
    """The smallest multiples of the window that hold the grid."""
    t, h, w = (math.ceil(size / side) * side for size, side in zip(grid, window, strict=True))
    return t, h, w


def neighbourhoods(grid: Triple, window: Triple, shift: Triple, device: torch.device) -> Tensor:
    """(K, N, N), to be added to attention logits in a grid that was rolled by `shift`.

    Along each axis the patches of the last window come from both ends of the video; they see only their own end.
    """
    labels = torch.zeros((), device=device)
    for size, side, step in zip(grid, window, shift, strict=True):
        places = torch.arange(size, device=device)
        region = (places >= size - side).float() + (places >= size - step).float()
        labels = 3 * labels[..., None] + region
    numbers = cut(labels[None, ..., None], window)[0, ..., 0]
    return (numbers[:, None] != numbers[..., None]).float() * APART


def relative_positions(window: Triple) -> Tensor:
    """(N, N) int64: which row of the bias table belongs to each pair of patches of a full window."""
    places = torch.cartesian_prod(*(torch.arange(side) for side in window))
    distances = places[:, None] - places[None]
    t, h, w = (distances[..., axis] + side - 1 for axis, side in enumerate(window))
    return (t * (2 * window[1] - 1) + h) * (2 * window[2] - 1) + w


class WindowAttention(nn.Module):
    """Attention within windows, biased by the distance of patches."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: Triple, released: bool) -> None:
        super().__init__()
        self.heads, self.window, self.released = heads, window, released
        rows = math.prod(2 * side - 1 for side in window)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, heads), std=0.02))
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def bias(self, window: Triple) -> Tensor:
        """(a, N, N) for windows that may be smaller than the full one."""
        if self.released:
            patches = math.prod(window)
            index = self.relative_position_index[:patches, :patches]
        else:
            t, h, w = window
            index = self.relative_position_index.view(*self.window, *self.window)[:t, :h, :w, :t, :h, :w]
            index = index.reshape(math.prod(window), -1)
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def forward(self, x: Tensor, window: Triple, mask: Tensor | None) -> Tensor:
        """(B, K, N, C), and (K, N, N) to add to the logits -> (B, K, N, C)."""
        bias = self.bias(window)[None]
        if mask is not None:
            bias = (bias + mask[:, None].to(bias.dtype)).expand(len(x), -1, -1, -1, -1).flatten(0, 1)
        qkv = self.qkv(x.flatten(0, 1)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=bias)
        if not len(x):  # the fused attention then gives its bias no gradient, but workers with samples wait for one
            mixed = mixed + bias.sum()
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2).view_as(x))
        return out


class MLP(nn.Module):
    """Two linear maps, the first to four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """Window attention and an MLP, each added to what came in; in training both are skipped now and then for a video
    (stochastic depth, Huang et al., ECCV 2016)."""

    def __init__(self, config: VioletConfig, stage: int, shifted: bool, skipped: float) -> None:
        super().__init__()
        width = config.embed_dim * 2**stage
        self.window, self.shifted, self.skipped = config.window, shifted, skipped
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, config.swin_heads[stage], config.window, config.released_windows)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, H, W, C), and `neighbourhoods` for shifted blocks where any axis is -> the same shape."""
        x = x + self._sometimes(self._attention(self.norm1(x), mask))
        return x + self._sometimes(self.mlp(self.norm2(x)))

    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        grid = x.shape[1:4]
        window, shift = fitted(grid, self.window)
        whole = padded(grid, window)
        behind = [more for axis in (2, 1, 0) for more in (0, whole[axis] - grid[axis])]
        x = F.pad(x, (0, 0, *behind))  # the zeros are keys like any other, as in the official code
        rolled = self.shifted and any(shift)
        if rolled:
            x = x.roll([-step for step in shift], (1, 2, 3))
        x = joined(self.attn(cut(x, window), window, mask if rolled else None), window, whole)
        if rolled:
            x = x.roll(shift, (1, 2, 3))
        return x[:, : grid[0], : grid[1], : grid[2]]

    def _sometimes(self, x: Tensor) -> Tensor:
        if not self.training or self.skipped == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1, 1).bernoulli_(1 - self.skipped)
        return x * kept / (1 - self.skipped)


class PatchMerging(nn.Module):
    """Four neighbours in a frame become one patch of twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C), H and W even -> (B, T, H/2, W/2, 2C)."""
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return merged


class Stage(nn.Module):
    """Blocks at one resolution, every other one with shifted windows; all but the last stage merge patches."""

    def __init__(self, config: VioletConfig, stage: int, skipped: Sequence[float]) -> None:
        super().__init__()
        self.window = config.window
        self.blocks = nn.ModuleList(
            SwinBlock(config, stage, number % 2 == 1, rate) for number, rate in enumerate(skipped)
        )
        if stage < len(config.depths) - 1:
            self.downsample = PatchMerging(config.embed_dim * 2**stage)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H/2, W/2, 2C), or at the last stage the same shape."""
        window, shift = fitted(x.shape[1:4], self.window)
        mask = None
        if any(shift) and len(self.blocks) > 1:
            mask = neighbourhoods(padded(x.shape[1:4], window), window, shift, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return cast(Tensor, self.downsample(x)) if hasattr(self, "downsample") else x


class PatchEmbedding(nn.Module):
    """Pixels to patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, PATCH, stride=(1, *PATCH[1:]))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, h, w) -> (B, T, h/4, w/4, C)."""
        x = F.pad(x, (0, 0, 0, 0, 0, PATCH[0] - 1))  # after the last frame comes a black one
        embedded: Tensor = self.norm(self.proj(x).movedim(1, -1))
        return embedded


class VideoSwin(nn.Module):
    """Four stages of windowed attention; time keeps its resolution."""

    def __init__(self, config: VioletConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config.embed_dim)
        rates = torch.linspace(0, config.stochastic_depth, sum(config.depths), device="cpu").split(list(config.depths))
        self.layers = nn.ModuleList(Stage(config, number, part.tolist()) for number, part in enumerate(rates))
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, h, w) standardised, h and w multiples of 32 -> (B, T, h/32, w/32, 8 * embed_dim)."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        features: Tensor = self.norm(x)
        return features
