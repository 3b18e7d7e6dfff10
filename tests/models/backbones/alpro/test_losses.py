"""The losses one pair at a time, and what is drawn for a sample."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from models.backbones.alpro.losses import clamped, crops, entity_loss, hard_negatives, uniform
from models.backbones.alpro.network import ALPRO, Candidates
from tests.models.backbones.alpro import small


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def encoded(network: ALPRO, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Text states, masks, video tokens."""
    batch = small.batch(samples)
    mask = batch.mask[:, 0]
    return network.text_encoder.bert(batch.ids[:, 0], mask), mask, network.visual_encoder(batch.frames)


@torch.no_grad()
def test_the_contrastive_loss_one_pair_at_a_time() -> None:
    network, batch = small.network(), small.batch(4)
    text, _, video = encoded(network, 4)
    texts, videos = network.text_proj(text[:, 0]), network.vision_proj(video[:, 0])
    temperature, expected = float(network.temp), 0.0
    for i in range(4):
        for scores in (
            [cosine(texts[i], videos[j]) / temperature for j in range(4)],
            [cosine(texts[j], videos[i]) / temperature for j in range(4)],
        ):
            expected -= (scores[i] - math.log(sum(math.exp(score) for score in scores))) / 2
    assert float(network(batch, ("vtc",))["vtc"]) == pytest.approx(expected, rel=1e-9)


def log_likelihood(logits: Tensor, label: int) -> float:
    return float(logits[label]) - math.log(sum(math.exp(float(logit)) for logit in logits))


@torch.no_grad()
def test_matching_with_given_negatives_one_pair_at_a_time() -> None:
    network = small.network()
    text, mask, video = encoded(network, 3)
    other_text, other_video = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 1])
    bert, expected = network.text_encoder.bert, 0.0
    for i in range(3):
        for t, v in ((i, i), (int(other_text[i]), i), (i, int(other_video[i]))):
            words = int(mask[t].sum())  # without padding there is nothing to mask
            state = bert.fuse(text[t : t + 1, :words], mask[t : t + 1, :words], video[v : v + 1])[0, 0]
            expected -= log_likelihood(network.itm_head(state), int(t == i and v == i)) / 3
    own = bert.fuse(text, mask, video)[:, 0]
    found = network.match(own, text, mask, video, Candidates(text, mask, video, other_text, other_video))
    assert float(found) == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_a_single_sample_has_no_negatives() -> None:
    network, batch = small.network(), small.batch(1)
    text, mask, video = encoded(network, 1)
    state = network.text_encoder.bert.fuse(text, mask, video)[0, 0]
    expected = -log_likelihood(network.itm_head(state), 1)
    assert float(network(batch, ("vtm",))["vtm"]) == pytest.approx(expected, rel=1e-9)


def test_hard_negatives_come_as_often_as_they_are_likely() -> None:
    scores = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64)
    rows, own = 8000, 1
    draws = uniform(torch.arange(rows), 1)[:, 0]
    found = hard_negatives(scores.expand(rows, 4), torch.full((rows,), own), torch.tensor([7, 3, 9, 1]), draws)
    counts = Counter(found.tolist())
    assert own not in counts
    total = sum(math.exp(float(scores[j])) for j in (0, 2, 3))
    for j in (0, 2, 3):
        assert counts[j] / rows == pytest.approx(math.exp(float(scores[j])) / total, abs=0.02)


def test_hard_negatives_do_not_depend_on_who_holds_what() -> None:
    source = torch.Generator().manual_seed(0)
    scores, seeds = torch.randn(6, 6, generator=source), torch.randperm(6, generator=source)
    own, draws = torch.arange(6), uniform(seeds, 1)[:, 0]
    found = hard_negatives(scores, own, seeds, draws)
    assert bool((found != own).all())
    for order in (torch.randperm(6, generator=source) for _ in range(5)):
        back = order.argsort()
        again = hard_negatives(scores[:, order], back[own], seeds[order], draws)
        assert torch.equal(order[again], found)


def test_draws_are_of_the_seed_alone() -> None:
    seeds = torch.tensor([5, 2**62 - 1, 0])
    assert torch.equal(uniform(seeds, 2)[1:2], uniform(seeds[1:2], 2))
    assert torch.equal(crops(seeds, 14)[1:2], crops(seeds[1:2], 14))
    assert len({tuple(row) for row in uniform(seeds, 2).tolist()}) == 3
    assert uniform(seeds[:0], 2).shape == (0, 2)
    assert crops(seeds[:0], 3).shape == (0, 3, 3)


@pytest.mark.parametrize("side", [1, 2, 14])
def test_crops_are_rectangles_of_a_third_to_a_half(side: int) -> None:
    found = crops(torch.arange(200), side)
    for crop in found:
        rows, columns = crop.any(1).nonzero()[:, 0], crop.any(0).nonzero()[:, 0]
        assert len(rows) > 0
        box = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert int(box.sum()) == box.numel() == int(crop.sum())
    if side == 14:
        shares = found.double().mean((1, 2))
        assert float(shares.min()) > 0.2  # sides are cut down to whole cells
        assert float(shares.max()) <= 0.5
        assert len({tuple(crop.flatten().tolist()) for crop in found}) > 150


def test_entities_one_sample_at_a_time() -> None:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=source, dtype=torch.float64)
    labels = (2 * torch.randn(5, 4, generator=source, dtype=torch.float64)).softmax(1)
    threshold = float(labels.amax(1).median())
    expected = 0.0
    for row in range(5):
        if float(labels[row].max()) >= threshold:
            expected -= sum(float(labels[row, m]) * log_likelihood(logits[row], m) for m in range(4))
    assert float(entity_loss(logits, labels, threshold)) == pytest.approx(expected, rel=1e-9)
    assert float(entity_loss(logits, labels, 1.0)) == 0


def test_the_temperature_keeps_its_gradient_beyond_its_bounds() -> None:
    temperature = torch.tensor([0.9], requires_grad=True)
    found = clamped(temperature)
    assert found.item() == pytest.approx(0.5)
    found.backward()
    assert temperature.grad is not None
    assert temperature.grad.item() == 1


@torch.no_grad()
def test_masked_words_and_hidden_cells_one_at_a_time() -> None:
    network, batch = small.network(), small.batch(3)
    losses = network(batch, ("mlm", "mvm"))
    text, video = (
        network.text_encoder.bert(batch.masked_ids[:, 0], batch.mask[:, 0]),
        network.visual_encoder(batch.frames),
    )
    words = cells = 0.0
    for i in range(3):
        states = network.text_encoder.bert.fuse(text[i : i + 1], batch.mask[i], video[i : i + 1])[0]
        for place, label in enumerate(batch.token_labels[i, 0].tolist()):
            if label >= 0:
                words -= log_likelihood(network.text_encoder.words(states[place : place + 1])[0], label)
        shown = batch.frames[i].clone()
        for t, row, column in batch.hidden[i].nonzero().tolist():
            shown[t, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
        _, patches = network.visual_encoder.model(shown[None])
        for t, row, column in batch.hidden[i].nonzero().tolist():
            logits = network.mvm_head(patches[0, row * small.SIDE + column, t])
            cells -= log_likelihood(logits, int(batch.cell_tokens[i, t, row, column]))
    assert float(losses["mlm"]) == pytest.approx(words, rel=1e-9)
    assert float(losses["mvm"]) == pytest.approx(cells, rel=1e-9)
