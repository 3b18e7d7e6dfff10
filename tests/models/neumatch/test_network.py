"""The parallel network beside the step-by-step one: logits and every gradient, in all variants and action sets."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from models.neumatch.actions import YMS_ACTIONS, Action
from models.neumatch.network import NeuMATCH, NeuMATCHConfig, smoothed_cross_entropy
from models.neumatch.recurrent import LSTMLayer
from tests.reference import neumatch as reference
from tests.reference.batches import ALL_ACTIONS, VARIANTS, random_batch, sample_width, small_network

SIZES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=4)
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def gradients(network: NeuMATCH, logits: Tensor) -> list[Tensor]:
    """Of a function of the logits in which no symmetry hides a mistake; zeros where a parameter has no part in it."""
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    loss = (logits * weights).sum() + logits.square().sum()
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
    return list(found)


def check(network: NeuMATCH, sizes: list[tuple[int, int]], seed: int) -> None:
    batch = random_batch(network, sizes, seed)
    logits, gold, _ = network(batch)
    expected = reference.teacher_forced(network, batch)
    torch.testing.assert_close(logits, expected, **EXACT)
    assert gold.tolist() == [a for row, n in zip(batch.actions, batch.action_lengths, strict=True) for a in row[:n]]
    if expected.requires_grad:
        for ours, theirs in zip(gradients(network, logits), gradients(network, expected), strict=True):
            # The stacks' weights collect gradients of many elements: 1e-9 of the largest.
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * (1 + float(theirs.abs().max())))


@pytest.mark.parametrize("actions", [YMS_ACTIONS, ALL_ACTIONS], ids=["yms", "all"])
@pytest.mark.parametrize(("projection", "normalisation"), VARIANTS)
@settings(deadline=None, max_examples=12)
@given(sizes=SIZES, seed=st.integers(0, 10**6), training=st.booleans())
def test_agrees_with_one_step_at_a_time(
    projection: str,
    normalisation: str,
    actions: tuple[Action, ...],
    sizes: list[tuple[int, int]],
    seed: int,
    training: bool,
) -> None:
    network = small_network(projection, normalisation, actions, seed % 7)  # type: ignore[arg-type]
    check(network.train(training), sizes, seed)


def test_positions_of_one_size() -> None:
    network = small_network("rp", "none", positions="shares")
    batch = random_batch(network, [(6, 4), (0, 3), (40, 1), (3, 0)], 5)
    expected = reference.teacher_forced(network, batch)
    torch.testing.assert_close(network(batch)[0], expected, rtol=1e-6, atol=1e-6)
    longer = small_network("rp", "none")
    assert not torch.allclose(longer(batch)[0], expected)
    totals = torch.tensor([[200], [20]]), torch.tensor([[100], [10]])
    features = network.positions(totals[0] // 2, totals[1] // 2, *totals)
    torch.testing.assert_close(features[0, 0, :6], features[1, 0, :6])


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [(0, 0)],
        [(0, 0), (3, 0), (0, 2)],
        [(0, 4), (0, 2)],
        [(3, 0)],
        [(1, 1)],
        [(0, 3), (5, 4)],
        [(9, 1), (1, 9), (4, 4)],
    ],
    ids=str,
)
@pytest.mark.parametrize("normalisation", ["sbn", "2xln"])
def test_empty_stacks_and_empty_batches(sizes: list[tuple[int, int]], normalisation: str) -> None:
    network = small_network("rp", normalisation, ALL_ACTIONS)  # type: ignore[arg-type]
    for seed in range(4):
        check(network, sizes, seed)


def test_a_movie_of_real_length() -> None:
    check(small_network("rp", "none", ALL_ACTIONS), [(60, 25), (40, 40)], 1)


@pytest.mark.parametrize("sizes", [[], [(0, 3)], [(2, 0)], [(0, 0)]], ids=str)
@pytest.mark.parametrize("normalisation", ["none", "sbn", "2xln", "4xln"])
@pytest.mark.parametrize("lookahead", [False, True])
def test_every_parameter_takes_part_in_every_batch(
    sizes: list[tuple[int, int]], normalisation: str, lookahead: bool
) -> None:
    # Workers reduce gradients together: one whose share has no match, no text or no sample must still bring zeros.
    network = small_network("rp", normalisation, lookahead=lookahead)  # type: ignore[arg-type]
    calls: list[str] = []
    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    logits, gold, _ = network(random_batch(network, sizes, 0))
    smoothed_cross_entropy(logits, gold, 0.03).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert all(
        bool(parameter.grad.isfinite().all()) for parameter in network.parameters() if parameter.grad is not None
    )
    assert all(bool(buffer.isfinite().all()) for buffer in network.buffers())
    owners = {name.rpartition(".")[0] for name, _ in network.named_parameters()}
    assert owners - set(calls) - {o for o in owners if "norm_hidden" in o or "norm_cell" in o} == set()


@pytest.mark.parametrize(("projection", "normalisation"), [v for v in VARIANTS if v[1] != "sbn"])
def test_a_sample_does_not_see_its_batch_mates(projection: str, normalisation: str) -> None:
    network = small_network(projection, normalisation, ALL_ACTIONS)  # type: ignore[arg-type]
    batch = random_batch(network, [(6, 4), (0, 3), (9, 2), (3, 0)], 5)
    logits, _, _ = network(batch)
    for b, rows in enumerate(logits.split(batch.action_lengths.tolist())):
        one = {
            name: getattr(batch, name)[b : b + 1]
            for name in ("video", "text", "video_lengths", "text_lengths", "actions", "action_lengths")
        }
        torch.testing.assert_close(network(replace(batch, **one))[0], rows, **EXACT)


def test_padding_is_never_read() -> None:
    network = small_network("full", "4xln", ALL_ACTIONS)
    batch = random_batch(network, [(6, 4), (2, 3), (0, 2)], 2)
    clean = network(batch)[0]
    for b in range(3):
        batch.video[b, batch.video_lengths[b] :] = float("nan")
        batch.text[b, batch.text_lengths[b] :] = float("nan")
        batch.actions[b, batch.action_lengths[b] :] = 1
    wider = replace(
        batch, video=F.pad(batch.video, (0, 0, 0, 3), value=float("nan")), actions=F.pad(batch.actions, (0, 2), value=2)
    )
    assert torch.equal(network(wider)[0], clean)


@pytest.mark.parametrize("smoothing", [0.0, 0.03, 0.5])
def test_smoothed_cross_entropy(smoothing: float) -> None:
    logits, gold = torch.randn(7, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0, 2])
    target = torch.full((7, 5), smoothing / 5, dtype=torch.float64)
    target[range(7), gold] = 1 - smoothing + smoothing / 5
    expected = -(target * logits.log_softmax(1)).sum()
    torch.testing.assert_close(smoothed_cross_entropy(logits, gold, smoothing), expected, rtol=1e-12, atol=0)
    weights = torch.rand(7, dtype=torch.float64)
    expected = -(target * logits.log_softmax(1) * weights[:, None]).sum()
    torch.testing.assert_close(smoothed_cross_entropy(logits, gold, smoothing, weights), expected, rtol=1e-12, atol=0)
    half = smoothed_cross_entropy(logits.bfloat16(), gold, smoothing)
    assert half.dtype == torch.float32
    assert float(smoothed_cross_entropy(logits[:0], gold[:0], smoothing)) == 0


def test_configuration() -> None:
    def rejects(message: str, **values: object) -> None:
        with pytest.raises(ValidationError, match=message):
            NeuMATCHConfig.model_validate_json(json.dumps(values))

    rejects("names an action twice", actions=("match", "match", "pop_text"))
    rejects("has no action that matches", actions=("pop_video", "pop_text"))
    rejects("must be able to drop clips", actions=("pop_text", "match_retain_video"))
    rejects("must be able to drop clips", actions=("pop_video", "match_retain_text"))
    rejects("width", width=0)
    assert NeuMATCHConfig.model_validate_json('{"actions": ["match"]}').actions == (Action.MATCH,)
    with pytest.raises(ValueError, match="projection 'rp' needs inputs of width 300, not 2048, 768"):
        NeuMATCH(NeuMATCHConfig(), 2048, 768)


def test_widths_and_published_sizes() -> None:
    for (projection, normalisation), count in zip(
        VARIANTS, [3_408_415, 4_253_215, 3_407_215, 3_419_215, 3_419_775], strict=True
    ):
        config = NeuMATCHConfig(projection=projection, normalisation=normalisation)
        with torch.device("meta"):
            network = NeuMATCH(config, *((300, 300) if projection == "rp" else (2048, 768)))
        assert sum(p.numel() for p in network.parameters()) == count
        assert sample_width(network, "text") == (300 if projection == "rp" else 768)


def test_components_cover_every_parameter() -> None:
    network = small_network("full", "sbn", lookahead=True)
    parts: dict[str, set[str]] = {}
    for name, _ in network.named_parameters():
        component = NeuMATCH.component_of(name)
        parts.setdefault(component, set()).add(".".join(name.split(".")[: 2 if name.startswith("encoders") else 1]))
    assert parts == {
        "video_stack": {"encoders.video", "video_stack", "video_norm"},
        "text_stack": {"encoders.text", "text_stack", "text_norm"},
        "action_matched_stacks": {"action_stack", "matched_stack"},
        "fc": {"fc1", "fc2"},
        "lookahead": {"lookahead"},
    }
    assert set(parts) == set(NeuMATCH.COMPONENTS)


@torch.no_grad()
def test_initialisation() -> None:
    torch.manual_seed(0)
    network = NeuMATCH(NeuMATCHConfig(), 300, 300)
    layer = network.video_stack.layer1
    assert isinstance(layer, LSTMLayer)
    assert bool((layer.bias_ih[300:600] == 1).all() and (layer.bias_hh[300:600] == 1).all())
    assert float(layer.bias_ih[:300].std()) == pytest.approx(0.1, rel=0.2)
    assert float(layer.weight_ih.std()) == pytest.approx((2 / (300 + 1200)) ** 0.5, rel=0.02)
    torch.testing.assert_close(layer.weight_hh.T @ layer.weight_hh, torch.eye(300), rtol=0, atol=1e-5)
    assert float(network.fc1.weight.std()) == pytest.approx((2 / 638) ** 0.5, rel=0.02)
    assert float(network.fc1.bias.std()) == pytest.approx(0.1, rel=0.2)
    cell = NeuMATCH(NeuMATCHConfig(normalisation="4xln"), 300, 300).matched_stack.layer1
    bound = 20**-0.5
    assert float(cell.weight_ih.abs().max()) <= bound
    assert float(cell.weight_ih.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
