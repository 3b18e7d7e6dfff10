"""The dynamic oracle and the walks on the network's own decisions, beside one action at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.neumatch.actions import YMS_ACTIONS, gold_actions, play
from models.neumatch.network import NeuMATCH
from models.neumatch.own_decisions import OwnDecisions, best_actions
from models.neumatch.samples import Sample, collate
from tests.reference import neumatch as reference
from tests.reference.batches import random_batch, sample_width, small_network


@st.composite
def owners(draw: st.DrawFn) -> tuple[list[int], int]:
    """The snippet of each clip in a monotone alignment (-1: none), and how many snippets there are."""
    texts = draw(st.integers(1, 4))
    found = sorted(draw(st.lists(st.integers(0, texts - 1), max_size=5)))
    for at in draw(st.lists(st.integers(0, 5), max_size=3)):
        found.insert(min(at, len(found)), -1)
    return found, texts


@given(owners())
def test_along_the_gold_actions_the_oracle_says_the_gold_actions(case: tuple[list[int], int]) -> None:
    owner, texts = case
    gold = gold_actions([() if text < 0 else (text,) for text in owner], texts)
    table = best_actions(torch.tensor([owner], dtype=torch.int64), texts, YMS_ACTIONS)[0]
    assert table.shape == (len(owner), texts)
    clip = text = 0
    for number in gold:
        if clip == len(owner) or text == texts:
            break
        assert int(table[clip, text]) == number
        clip, text = clip + YMS_ACTIONS[number].drops_clip, text + YMS_ACTIONS[number].drops_snippet


def most_right(owner: list[int], texts: int, clip: int, text: int) -> int:
    """How many clips can still go to their snippet, whatever is done from this cell on."""
    if clip == len(owner) or text == texts:
        return 0
    return max(
        int(owner[clip] == text) + most_right(owner, texts, clip + 1, text),
        most_right(owner, texts, clip, text + 1),
    )


@settings(deadline=None)
@given(owners())
def test_the_oracles_action_loses_no_clip_in_any_cell(case: tuple[list[int], int]) -> None:
    owner, texts = case
    table = best_actions(torch.tensor([owner], dtype=torch.int64), texts, YMS_ACTIONS)[0]
    for clip in range(len(owner)):
        for text in range(texts):
            action = YMS_ACTIONS[int(table[clip, text])]
            gained = int(action.matches and owner[clip] == text)
            assert not (action.matches and owner[clip] != text)
            after = most_right(owner, texts, clip + action.drops_clip, text + action.drops_snippet)
            assert gained + after == most_right(owner, texts, clip, text)


@pytest.mark.parametrize("lookahead", [False, True])
def test_walks_agree_with_one_action_at_a_time(lookahead: bool) -> None:
    network = small_network("full", "sbn", lookahead=lookahead).train()
    batch = random_batch(network, [(5, 3), (0, 2), (2, 4), (6, 1)], 3)
    owner = torch.full((4, 6), -1)
    owner[0, :5], owner[2, :2], owner[3] = torch.tensor([0, 0, -1, 1, 2]), torch.tensor([1, 3]), 0
    own = torch.rand(4, 10, generator=torch.Generator().manual_seed(0)) < 0.6
    logits, right, encoded = network(batch, OwnDecisions(owner, own))
    histories = OwnDecisions(owner, own)(network, batch, encoded)
    table = best_actions(owner, 4, YMS_ACTIONS)
    rows, targets = [], []
    for b, walker in enumerate(reference.walkers(network, batch)):
        taken: list[int] = []
        while not walker.finished:
            rows.append(walker.logits())
            clip, text = walker.clips - len(walker.video), walker.snippets - len(walker.text)
            targets.append(int(table[b, clip, text]))
            taken.append(int(rows[-1].argmax()) if own[b, len(taken)] else targets[-1])
            walker = walker.after(taken[-1])  # noqa: PLW2901 (it walks)
        assert histories.actions[b, : histories.lengths[b]].tolist() == taken
    torch.testing.assert_close(logits, torch.stack(rows), rtol=1e-9, atol=1e-9)
    assert right.tolist() == targets
    assert any(a != b for a, b in zip(logits.argmax(1).tolist(), targets, strict=True))


def test_without_own_decisions_it_is_teacher_forcing() -> None:
    network = small_network("rp", "none")
    widths = [sample_width(network, name) for name in ("video", "text")]
    samples = []
    for seed, owner in enumerate(([0, 0, 1, -1, 2], [-1, 1])):
        source = torch.Generator().manual_seed(seed)
        gold = gold_actions([() if text < 0 else (text,) for text in owner], 3)
        video, text = (torch.randn(n, w, generator=source) for n, w in zip((len(owner), 3), widths, strict=True))
        samples.append(Sample(video, text, tuple(gold)))
    owners_of = torch.tensor([[0, 0, 1, -1, 2], [-1, 1, -1, -1, -1]])
    forced, right = walked(network, samples, owners_of)
    for sample, ids, count in zip(samples, right, (5, 2), strict=True):
        assert list(sample.actions[: len(ids)]) == ids
        assert play(ids, count, 3) == play(sample.actions, count, 3)
    assert forced == [len(ids) for ids in right]


def walked(network: NeuMATCH, samples: list[Sample], owner: torch.Tensor) -> tuple[list[int], list[list[int]]]:
    """How long each sample's history is, and its targets, when no decision is the network's own."""
    batch = collate(samples, *(sample_width(network, name) for name in ("video", "text")))
    encoded = network.encode(batch.video, batch.text, batch.video_lengths, batch.text_lengths)
    nothing = torch.zeros(len(samples), owner.shape[1] + batch.text.shape[1], dtype=torch.bool)
    histories = OwnDecisions(owner, nothing)(network, batch, encoded)
    assert torch.equal(histories.actions, histories.targets)
    lengths = histories.lengths.tolist()
    return lengths, [row[:n] for row, n in zip(histories.targets.tolist(), lengths, strict=True)]
