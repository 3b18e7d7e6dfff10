"""The Video Swin's windows beside the obvious way, its options, and stochastic depth."""

import pytest
import torch

from models.backbones.violet.swin import SwinBlock, cut, fitted, joined, neighbourhoods, padded
from tests.models.backbones.violet import reference, small


def block(shifted: bool, **changes: object) -> SwinBlock:
    torch.manual_seed(0)
    made = SwinBlock(small.config(embed_dim=4, heads=4, swin_heads=(2, 2, 2, 2), **changes), 0, shifted, 0.0).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(3, 4, 5), (2, 3, 4), (1, 2, 4), (4, 3, 3), (2, 3, 3), (1, 2, 2)])
@torch.no_grad()
def test_windows_one_patch_at_a_time(grid: tuple[int, int, int], shifted: bool) -> None:
    made = block(shifted)
    x = torch.randn(2, *grid, 4, dtype=torch.float64)
    window, shift = fitted(grid, made.window)
    mask = neighbourhoods(padded(grid, window), window, shift, x.device) if any(shift) else None
    found = made._attention(x, mask)
    for ours, one in zip(found, x, strict=True):
        torch.testing.assert_close(ours, reference.attention(made, one), rtol=1e-9, atol=1e-12)


def test_windows_are_cut_and_joined() -> None:
    x = torch.arange(2 * 4 * 6 * 3 * 5).view(2, 4, 6, 3, 5)
    parts = cut(x, (2, 3, 3))
    assert parts.shape == (2, 4, 18, 5)
    assert torch.equal(parts[1, 3].view(2, 3, 3, 5), x[1, 2:, 3:])
    assert torch.equal(joined(parts, (2, 3, 3), (4, 6, 3)), x)


@pytest.mark.parametrize(("window", "same"), [((1, 3, 3), True), ((2, 3, 3), True), ((2, 2, 2), False)])
def test_the_released_bias_differs_in_small_frames_alone(window: tuple[int, int, int], same: bool) -> None:
    ours, theirs = (block(False, released_windows=flag).attn.bias(window) for flag in (False, True))
    assert torch.equal(ours, theirs) == same


def test_stochastic_depth_skips_whole_videos_in_training_alone() -> None:
    made = block(False)
    x = torch.randn(64, 1, 2, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = made.eval()(x, None)
        made.skipped = 0.25
        assert torch.equal(made(x, None), expected)
        torch.nn.init.zeros_(made.mlp.fc2.weight)
        torch.nn.init.zeros_(made.mlp.fc2.bias)
        whole = made.eval()(x, None) - x
        found = made.train()(x, None) - x
    skipped = (found == 0).flatten(1).all(1)
    assert 4 <= int(skipped.sum()) <= 32
    torch.testing.assert_close(found[~skipped], whole[~skipped] / 0.75)


def test_later_blocks_are_skipped_more_often() -> None:
    network = small.network(stochastic_depth=0.2)
    rates = [part.skipped for part in network.modules() if isinstance(part, SwinBlock)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
