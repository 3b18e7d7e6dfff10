"""The loss network: against torch's own encoder layer, its forms, and the fit to the plain sum."""

import pytest
import torch
from torch import nn

from models.meltr.transformer import (
    PRESETS,
    LossTransformer,
    LossTransformerConfig,
    fit_to_sum,
    loss_network,
    unified_and_coefficients,
)


def test_it_is_a_post_norm_encoder_layer() -> None:
    torch.manual_seed(0)
    ours = LossTransformer(LossTransformerConfig(width=32, feed_forward=24, value_hidden=16), 5).double()
    theirs = nn.TransformerEncoderLayer(32, 8, 24, 0.0, batch_first=True).double()
    pairs = {
        theirs.self_attn.in_proj_weight: ours.attention_in.weight,
        theirs.self_attn.in_proj_bias: ours.attention_in.bias,
        theirs.self_attn.out_proj.weight: ours.attention_out.weight,
        theirs.self_attn.out_proj.bias: ours.attention_out.bias,
        theirs.linear1.weight: ours.feed_in.weight,
        theirs.linear1.bias: ours.feed_in.bias,
        theirs.linear2.weight: ours.feed_out.weight,
        theirs.linear2.bias: ours.feed_out.bias,
        theirs.norm1.weight: ours.norm1.weight,
        theirs.norm1.bias: ours.norm1.bias,
        theirs.norm2.weight: ours.norm2.weight,
        theirs.norm2.bias: ours.norm2.bias,
    }
    with torch.no_grad():
        for mine, yours in pairs.items():
            mine.copy_(yours)
    losses = torch.rand(3, 5, dtype=torch.float64) * 3
    expected = ours.head(theirs(ours.tokens(losses)).mean(1))[:, 0]
    torch.testing.assert_close(ours(losses), expected)
    torch.testing.assert_close(ours(losses[0]), expected[0])  # one vector or many


@pytest.mark.parametrize("form", ["transformer", "value_only", "task_only", "linear"])
def test_forms(form: str) -> None:
    config = LossTransformerConfig.model_validate({"form": form, "width": 16, "feed_forward": 8, "value_hidden": 4})
    network = loss_network(config, 3, seed=1).double()
    losses = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    unified, c = unified_and_coefficients(network, losses)
    step = 1e-6
    for t in range(3):
        ahead = losses.clone()
        ahead[t] += step
        slope = (unified_and_coefficients(network, ahead)[0] - unified) / step
        assert c[t].item() == pytest.approx(slope.item(), abs=1e-5)
    swapped, _ = unified_and_coefficients(network, losses.flip(0))
    # Without task embeddings no loss is told from another.
    assert (swapped.item() == pytest.approx(unified.item(), abs=1e-9)) == (form in ("value_only", "linear"))


def test_the_seed_alone_decides() -> None:
    first = loss_network(PRESETS["allinone"], 4, seed=3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second, other = loss_network(PRESETS["allinone"], 4, seed=3), loss_network(PRESETS["allinone"], 4, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(iter(first.parameters())), next(iter(other.parameters())))


@pytest.mark.parametrize("tasks", [1, 8])
def test_the_fit_brings_every_derivative_near_one(tasks: int) -> None:
    network = loss_network(PRESETS["allinone"], tasks, seed=0)
    losses = torch.linspace(0.3, 6.0, tasks)
    _, at_first = unified_and_coefficients(network, losses)
    worst = fit_to_sum(network, 0.25 * losses, 1.5 * losses + 0.1)
    unified, coefficients = unified_and_coefficients(network, losses)
    assert (at_first - 1).abs().max() > 0.5
    assert worst < 0.3
    assert (coefficients - 1).abs().max() < 0.1
    assert unified.item() == pytest.approx(losses.sum().item(), rel=0.1)
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
