"""The lookahead beside a list of every completion: probabilities, gradients, and what they add up to."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.data.movie import Alignment
from models.neumatch.actions import YMS_ACTIONS, Action, gold_actions
from models.neumatch.decoding import greedy
from models.neumatch.lookahead import LookaheadConfig, columns, completions
from models.neumatch.network import NeuMATCHConfig
from tests.reference import neumatch as reference
from tests.reference.batches import random_batch, small_network
from tests.reference.lookahead import Ahead

SIZES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=3)


@settings(deadline=None, max_examples=25)
@given(sizes=SIZES, seed=st.integers(0, 10**6), order=st.permutations(YMS_ACTIONS))
def test_agrees_with_every_completion(sizes: list[tuple[int, int]], seed: int, order: list[Action]) -> None:
    network = small_network("full", "sbn", tuple(order), seed % 7, lookahead=True)
    batch = random_batch(network, sizes, seed)
    logits, _, _ = network(batch)
    expected = reference.teacher_forced(network, batch)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    if not expected.requires_grad:
        return
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    parameters = list(network.parameters())
    ours, theirs = (
        torch.autograd.grad((x * weights).sum(), parameters, allow_unused=True, materialize_grads=True)
        for x in (logits, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8 * (1 + float(other.abs().max())))


def test_likeness_can_be_left_out() -> None:
    network = small_network("full", "none", lookahead=True)
    batch = random_batch(network, [(4, 3), (3, 2)], 2)
    seeing = network(batch)[0]
    network.lookahead.config = LookaheadConfig(hidden=5, joint=4, likeness=False)
    blind = network(batch)[0]
    torch.testing.assert_close(blind, reference.teacher_forced(network, batch), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(blind, seeing)
    (gradient,) = torch.autograd.grad(blind.sum(), network.lookahead.likeness)
    assert not bool(gradient.any())  # it takes part, with nothing to learn


@torch.no_grad()
def test_greedy_reads_the_same_cells() -> None:
    network = small_network("rp", "none", lookahead=True).eval()
    batch = random_batch(network, [(4, 3), (0, 2), (3, 1), (1, 3)], 3)
    encoded = network.encode(batch.video, batch.text, batch.video_lengths, batch.text_lengths)
    chosen, logits = greedy(network, encoded)
    for walker, ids, rows in zip(reference.walkers(network, batch), chosen, logits, strict=True):
        expected, scores = reference.greedy(walker)
        assert ids == expected
        if scores:
            torch.testing.assert_close(rows, torch.stack(scores), rtol=1e-9, atol=1e-9)


def alignments(clips: int, texts: int) -> list[Alignment]:
    """Every monotone alignment with at most one snippet a clip."""
    found: list[Alignment] = []
    for choice in itertools.product([None, *range(texts)], repeat=clips):
        named = [text for text in choice if text is not None]
        if named == sorted(named):
            found.append([() if text is None else (text,) for text in choice])
    return found


@torch.no_grad()
def test_probabilities_of_all_histories_add_up_to_one() -> None:
    network = small_network("full", "none", lookahead=True)
    batch = random_batch(network, [(3, 2)], 5)
    ahead = Ahead(network, batch.video[0].flip(0).double(), batch.text[0].flip(0).double())
    total = sum(float(sum_along(ahead, path)) for path in every_path(3, 2))
    assert total == pytest.approx(1, rel=1e-9)
    # The gold histories of all alignments are some of them.
    gold = [gold_actions(alignment, 2) for alignment in alignments(3, 2)]
    assert len({tuple(ids) for ids in gold}) == len(gold)
    assert 0 < sum(float(sum_along(ahead, ids)) for ids in gold) < 1


def every_path(clips: int, texts: int) -> list[list[int]]:
    """All sequences of YMS's actions until a stack is empty."""
    if not clips or not texts:
        return [[]]
    rest = {0: every_path(clips - 1, texts), 1: every_path(clips, texts - 1), 2: every_path(clips - 1, texts)}
    return [[action, *path] for action, paths in rest.items() for path in paths]


def sum_along(ahead: Ahead, ids: list[int]) -> Tensor:
    """The product of the probabilities along a history, up to where a stack is empty."""
    clip = text = 0
    begun, probability = False, torch.ones((), dtype=torch.float64)
    for number in ids:
        if clip == len(ahead.clips) or text == len(ahead.snippets):
            break
        probability = probability * ahead(clip, text, begun)[number].exp()
        action = YMS_ACTIONS[number]
        clip, text, begun = clip + action.drops_clip, text + action.drops_snippet, action.matches
    return probability


def test_long_sequences_stay_finite() -> None:
    scores = (10 * torch.randn(2, 250, 95, generator=torch.Generator().manual_seed(0))).requires_grad_()
    steps = torch.randn(2, 250, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = completions(scores, steps, steps[0, 0], torch.tensor([250, 120]), torch.tensor([40, 95]))
    assert found.shape == (2, 2, 250, 95, 3)
    inside = torch.cat([found[0, :, :, :40].flatten(), found[1, :, :120].flatten()])
    assert bool(inside.isfinite().all())
    found[0, 0, 0, 0, 0].backward()
    assert scores.grad is not None
    assert steps.grad is not None
    assert bool(scores.grad.isfinite().all() and steps.grad.isfinite().all())
    assert not bool(scores.grad[0, :, 40:].any())


def test_other_actions_are_refused() -> None:
    assert columns(("pop_text", "match_retain_text", "pop_video")) == [1, 2, 0]  # type: ignore[arg-type]
    assert columns(YMS_ACTIONS) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"model\.lookahead needs the actions pop_video, pop_text, match_retain_text"):
        NeuMATCHConfig.model_validate_json('{"lookahead": {}, "actions": ["match", "pop_video", "pop_text"]}')
