"""Looks into a loss network against direct evaluation and finite differences; figures by epoch against hand counts."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from models.errors import UserError
from models.meltr.introspection import by_epoch, marginal, surface, without
from models.meltr.transformer import LossTransformer, LossTransformerConfig, loss_network

FORMS = get_args(LossTransformerConfig.model_fields["form"].annotation)
MEANS = torch.tensor([0.7, 1.3, 2.1, 0.2], dtype=torch.float64)
VALUES = torch.linspace(0.05, 3, 7, dtype=torch.float64)


def _network(form: Any = "transformer") -> nn.Module:
    config = LossTransformerConfig(form=form, width=16, feed_forward=24, value_hidden=12, heads=2)
    return loss_network(config, len(MEANS), seed=4).double()


def _at(network: nn.Module, moved: dict[int, float]) -> float:
    """M with the others at their means, one point at a time."""
    losses = MEANS.clone()
    for task, value in moved.items():
        losses[task] = value
    with torch.no_grad():
        return float(network(losses))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", [0, 2])
def test_a_marginal_is_m_and_its_slope_point_by_point(form: str, task: int) -> None:
    network, step = _network(form), 1e-6
    unified, slope = marginal(network, MEANS, task, VALUES)
    around = [[_at(network, {task: float(value) + s}) for s in (-step, 0, step)] for value in VALUES]
    assert unified.tolist() == pytest.approx([at for _, at, _ in around], rel=1e-12)
    assert slope.tolist() == pytest.approx([(after - before) / (2 * step) for before, _, after in around], abs=1e-7)
    assert not unified.requires_grad
    assert not slope.requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_a_surface_is_m_point_by_point(form: str) -> None:
    network = _network(form)
    found = surface(network, MEANS, 3, 1, VALUES)
    expected = [[_at(network, {3: float(a), 1: float(b)}) for b in VALUES] for a in VALUES]
    assert found.shape == (7, 7)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert not found.requires_grad


def test_a_surface_crosses_the_marginals_at_the_means() -> None:
    network, values = _network(), torch.cat([VALUES, MEANS[:2]])
    found = surface(network, MEANS, 0, 1, values)
    assert torch.allclose(found[:, -1], marginal(network, MEANS, 0, values)[0], rtol=1e-12)
    assert torch.allclose(found[-2, :], marginal(network, MEANS, 1, values)[0], rtol=1e-12)


def test_a_surface_over_one_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="loss 1 twice"):
        surface(_network(), MEANS, 1, 1, VALUES)


def test_the_means_and_the_network_stay_as_they_are() -> None:
    network, means = _network(), MEANS.clone()
    before = [p.clone() for p in network.parameters()]
    marginal(network, means, 1, VALUES)
    surface(network, means, 0, 1, VALUES)
    without(network, "task")
    without(network, "value")
    assert torch.equal(means, MEANS)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, network.parameters(), strict=True))


def test_figures_of_single_precision_fit_a_double_network_and_back() -> None:
    found, _ = marginal(_network().float(), MEANS, 0, VALUES)
    assert found.dtype == torch.float32
    found, _ = marginal(_network(), MEANS.float(), 0, VALUES.float())
    assert found.dtype == torch.float64


def test_without_the_task_embedding_tokens_are_those_of_values() -> None:
    network = _network()
    assert isinstance(network, LossTransformer)
    bare = without(network, "task")
    alone = LossTransformer(network.config.model_copy(update={"form": "value_only"}), len(MEANS)).double()
    alone.load_state_dict(network.state_dict())
    losses = torch.rand(5, len(MEANS), dtype=torch.float64)
    assert torch.equal(bare(losses), alone(losses))
    assert torch.allclose(bare(losses.flip(1)), bare(losses), rtol=1e-12)  # no task is told from another
    assert not torch.allclose(network(losses.flip(1)), network(losses), rtol=1e-3)


def test_without_the_embedding_of_values_nothing_depends_on_the_losses() -> None:
    network = _network()
    bare = without(network, "value")
    losses = torch.rand(5, len(MEANS), dtype=torch.float64)
    assert torch.equal(bare.tokens(losses), bare.task_embedding.weight.expand(5, -1, -1))
    unified, slope = marginal(bare, MEANS, 0, VALUES)
    assert torch.allclose(unified, unified[:1], rtol=1e-12)
    assert slope.tolist() == [0.0] * len(VALUES)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "transformer"])
def test_a_network_without_both_embeddings_can_lose_neither(form: str) -> None:
    with pytest.raises(ValueError, match="both embeddings"):
        without(_network(form), "task")


def _close(found: Tensor, expected: list[list[float]]) -> bool:
    return torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0, equal_nan=True)


def test_figures_gather_by_the_epoch_that_ends_them() -> None:
    records: list[dict[str, Any]] = [
        {"step": 1, "loss/a": 2.0, "loss/b": 5},
        {"step": 2, "loss": 7.0, "epoch_loss": 1.0},
        {"step": 3, "loss/a": 4.0, "epoch": 1},
        {"step": 4, "loss/a": 1.0, "loss/b": "NaN"},
        {"step": 5, "loss/a": "Infinity", "epoch": 2},
        {"step": 6, "loss/a": -1.5, "loss/b": 0.5, "other/a": 9},
    ]
    found = by_epoch(records, ["a", "b"], "loss")
    assert found.epochs == (1, 2, 3)
    assert _close(found.mean, [[3, 5], [1, math.nan], [-1.5, 0.5]])
    assert _close(found.low, [[2, 5], [1, math.nan], [-1.5, 0.5]])
    assert _close(found.high, [[4, 5], [1, math.nan], [-1.5, 0.5]])
    assert _close(found.count, [[2, 1], [1, 0], [1, 1]])
    assert found.left_out == 2
    mean, low, high = found.overall()
    assert mean.tolist() == pytest.approx([(2 + 4 + 1 - 1.5) / 4, 5.5 / 2], rel=1e-12)
    assert (low.tolist(), high.tolist()) == ([-1.5, 0.5], [4, 5])


def test_figures_gather_by_the_epoch_that_each_record_names() -> None:
    records = [{"step": step, "epoch": 1 + step // 3, "loss/a": float(step)} for step in range(6)]
    found = by_epoch(records, ["a"], "loss")
    assert found.epochs == (1, 2)
    assert _close(found.mean, [[1], [4]])


def test_a_loss_without_any_figure_is_nan_overall() -> None:
    figures = by_epoch([{"step": 1, "loss/a": 1.0}], ["a", "b"], "loss").overall()
    assert [[math.isnan(x) for x in row.tolist()] for row in figures] == [[False, True]] * 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"step": 7, "loss/a": [1, 2]}, "step 7: loss/a"),
        ({"step": 7, "loss/a": 1.0, "epoch": "soon"}, "step 7: epoch"),
        ({"step": 7, "loss/a": 1.0, "epoch": "NaN"}, "step 7: epoch"),
        ({"step": 7, "loss/b": 1.0}, "training.log_every"),
    ],
)
def test_figures_that_cannot_be_used_are_named(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        by_epoch([record], ["a"], "loss")
