"""Attention in shifted windows, the slow and obvious way: one patch, one head, one key at a time."""

import math
from itertools import product

import torch
from torch import Tensor

from models.backbones.violet.swin import SwinBlock

Place = tuple[int, ...]


def together(one: Place, other: Place, grid: Place, window: Place, shifted: bool) -> bool:
    """Whether two patches see each other.

    Along each axis windows begin at the shift and follow each other; what lies before the first, and what is left
    after the last, stay apart, though the fast way puts them into one window.
    """
    for a, b, size, side in zip(one, other, grid, window, strict=True):
        if size <= side:  # one window spans the axis
            continue
        shift = side // 2 if shifted else 0
        if (a - shift) // side != (b - shift) // side:
            return False
    return True


def attention(block: SwinBlock, x: Tensor) -> Tensor:
    """(T, H, W, C) of one video, already normalised -> what the block's attention makes of it."""
    weights, grid, window = block.attn, x.shape[:3], block.window
    whole = [size if size <= side else math.ceil(size / side) * side for size, side in zip(grid, window, strict=True)]
    filled = x.new_zeros(*whole, x.shape[-1])
    filled[: grid[0], : grid[1], : grid[2]] = x
    places = list(product(*(range(size) for size in whole)))
    width = x.shape[-1] // weights.heads
    out = torch.zeros_like(x)
    for place in product(*(range(size) for size in grid)):
        mixed = []
        for head in range(weights.heads):
            logits, values = [], []
            for other in places:
                if not together(place, other, tuple(whole), window, block.shifted):
                    continue
                query, _, _ = weights.qkv(filled[place]).view(3, weights.heads, width)[:, head]
                _, key, value = weights.qkv(filled[other]).view(3, weights.heads, width)[:, head]
                row = 0  # of the table of distances, counted from the most negative one
                for a, b, side in zip(place, other, window, strict=True):
                    row = row * (2 * side - 1) + (a - b + side - 1)
                logits.append(query @ key / math.sqrt(width) + weights.relative_position_bias_table[row, head])
                values.append(value)
            mixed.append(torch.stack(logits).softmax(0) @ torch.stack(values))
        out[place] = weights.proj(torch.cat(mixed))
    return out
