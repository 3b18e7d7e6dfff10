"""Divided space-time attention, beside loops over places and frames that are too slow to be wrong."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.alpro.timesformer import MEAN, STD, Attention, Block, TimeSformer, drop_path
from tests.models.backbones.alpro import small

PLACES, HIDDEN, HEADS = small.SIDE**2, small.SIZES["hidden"], small.SIZES["heads"]


def attended(attention: nn.Module, group: list[Tensor]) -> list[Tensor]:
    """What attention makes of a few vectors (H,), one head and one of them at a time."""
    weights = dict(attention.named_parameters())
    width, found = HIDDEN // HEADS, []
    for vector in group:
        mixed = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            query, key, value = (
                weights["qkv.weight"][start : start + HIDDEN][part] for start in (0, HIDDEN, 2 * HIDDEN)
            )
            bias = [weights["qkv.bias"][start : start + HIDDEN][part] for start in (0, HIDDEN, 2 * HIDDEN)]
            scores = [(query @ vector + bias[0]) @ (key @ other + bias[1]) / math.sqrt(width) for other in group]
            total = sum(math.exp(score) for score in scores)
            mixed.append(sum(math.exp(s) / total * (value @ o + bias[2]) for s, o in zip(scores, group, strict=True)))
        found.append(weights["proj.weight"] @ torch.cat([torch.as_tensor(m) for m in mixed]) + weights["proj.bias"])
    return found


def block_by_hand(block: Block, first: Tensor, x: dict[tuple[int, int], Tensor]) -> tuple[Tensor, dict]:  # type: ignore[type-arg]
    """[CLS] (H,) and a vector for each (place, frame)."""
    x = dict(x)
    for place in range(PLACES):
        seen = attended(block.temporal_attn, [block.temporal_norm1(x[place, t]) for t in range(small.FRAMES)])
        for t, vector in enumerate(seen):
            x[place, t] = x[place, t] + block.temporal_fc(vector)
    firsts, moved = [], dict(x)
    for t in range(small.FRAMES):
        group = [block.norm1(first), *(block.norm1(x[place, t]) for place in range(PLACES))]
        of_first, *others = attended(block.attn, group)
        firsts.append(of_first)
        for place, vector in enumerate(others):
            moved[place, t] = x[place, t] + vector
    first = first + sum(firsts) / small.FRAMES
    for at, vector in moved.items():
        moved[at] = vector + block.mlp(block.norm2(vector))
    return first + block.mlp(block.norm2(first)), moved


@torch.no_grad()
def test_divided_attention_one_vector_at_a_time() -> None:
    encoder, pixels = small.network().visual_encoder, small.batch(2).frames
    model = encoder.model
    found, project = encoder(pixels), model.patch_embed.proj
    for sample in range(2):
        x = {}
        for t in range(small.FRAMES):
            for place in range(PLACES):
                row, column = divmod(place, small.SIDE)
                patch = pixels[sample, t, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].double()
                patch = torch.stack([(patch[c] - MEAN[c]) / STD[c] for c in range(3)])
                vector = (project.weight * patch).sum((1, 2, 3)) + project.get_parameter("bias")
                x[place, t] = vector + model.pos_embed[0, 1 + place] + model.time_embed[0, t]
        first = model.cls_token[0, 0] + model.pos_embed[0, 0]
        for block in model.blocks:
            assert isinstance(block, Block)
            first, x = block_by_hand(block, first, x)
        torch.testing.assert_close(found[sample, 0], model.norm(first), atol=1e-6, rtol=1e-6)
        for place in range(PLACES):
            over_time = sum(model.norm(x[place, t]) for t in range(small.FRAMES)) / small.FRAMES
            torch.testing.assert_close(found[sample, 1 + place], over_time, atol=1e-6, rtol=1e-6)


def test_no_sample_is_no_trouble() -> None:
    encoder = small.network().visual_encoder
    found = encoder(small.batch(1).frames[:0])
    assert found.shape == (0, 1 + PLACES, HIDDEN)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_training_begins_with_attention_over_places_alone() -> None:
    blocks = [block for block in TimeSformer(small.config()).blocks if isinstance(block, Block)]
    assert [bool(block.temporal_fc.weight.any()) for block in blocks] == [True, False]


def test_stochastic_depth_drops_rows_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    found = drop_path(x, 0.25, training=True)
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(found.amin((1, 2)), found.amax((1, 2)))
    assert float(found.mean()) == pytest.approx(1, abs=0.05)
    assert drop_path(x, 0.25, training=False) is x


def test_depth_grows_along_the_layers() -> None:
    blocks = TimeSformer(small.config(drop_path=0.2, video_layers=3)).blocks
    assert [block.drop_path for block in blocks] == pytest.approx([0, 0.1, 0.2])


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Attention(small.config()).double()
    theirs = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias.normal_())
        theirs.out_proj.weight.copy_(ours.proj.weight)
        theirs.out_proj.bias.copy_(ours.proj.bias)
    x = F.normalize(torch.randn(3, 5, HIDDEN, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
