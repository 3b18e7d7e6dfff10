"""Greedy and beam search beside one action at a time and beside every sequence there is."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from models.data.examples import Example
from models.data.movie import Clip, Movie, Snippet
from models.neumatch.actions import YMS_ACTIONS, Action, play
from models.neumatch.decoding import DecodingConfig, align, beam_search, greedy
from models.neumatch.network import Batch, Encoded, NeuMATCH, NeuMATCHConfig
from tests.reference import neumatch as reference
from tests.reference.batches import ALL_ACTIONS, VARIANTS, random_batch, sample_width, small_network

SIZES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), max_size=4)
SETS = [
    actions
    for count in range(1, 6)
    for actions in combinations(ALL_ACTIONS, count)
    if any(a.matches for a in actions) and any(a.drops_clip for a in actions) and any(a.drops_snippet for a in actions)
]


def decodable(network: NeuMATCH, sizes: list[tuple[int, int]], seed: int) -> tuple[Batch, Encoded]:
    """Random sequences and their encoding, in evaluation mode; SBN's running statistics are not 0 and 1."""
    network.train()
    network(random_batch(network, [(4, 4), (5, 3)], seed + 1))
    network.eval()
    batch = random_batch(network, sizes, seed)
    return batch, network.encode(batch.video, batch.text, batch.video_lengths, batch.text_lengths)


@pytest.mark.parametrize("actions", [YMS_ACTIONS, ALL_ACTIONS], ids=["yms", "all"])
@pytest.mark.parametrize(("projection", "normalisation"), VARIANTS)
@settings(deadline=None, max_examples=8)
@given(sizes=SIZES, seed=st.integers(0, 10**6))
@torch.no_grad()
def test_greedy_agrees_with_one_action_at_a_time(
    projection: str, normalisation: str, actions: tuple[Action, ...], sizes: list[tuple[int, int]], seed: int
) -> None:
    network = small_network(projection, normalisation, actions, seed % 7)  # type: ignore[arg-type]
    batch, encoded = decodable(network, sizes, seed)
    chosen, logits = greedy(network, encoded)
    for walker, ids, rows in zip(reference.walkers(network, batch), chosen, logits, strict=True):
        expected, scores = reference.greedy(walker)
        assert ids == expected
        assert rows.shape == (len(ids), len(actions))
        if scores:
            torch.testing.assert_close(rows, torch.stack(scores), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_greedy_scores_are_those_of_teacher_forcing() -> None:
    network = small_network("full", "4xln", ALL_ACTIONS)
    batch, encoded = decodable(network, [(7, 5), (3, 6)], 3)
    chosen, logits = greedy(network, encoded)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in chosen], batch_first=True)
    forced = replace(batch, actions=ids, action_lengths=torch.tensor([len(row) for row in chosen]))
    torch.testing.assert_close(network(forced)[0], torch.cat(logits), rtol=1e-9, atol=1e-9)


def one_at_a_time(network: NeuMATCH, batch: Batch, at: int) -> Encoded:
    fields = (batch.video, batch.text, batch.video_lengths, batch.text_lengths)
    return network.encode(*(field[at : at + 1] for field in fields))


@torch.no_grad()
def test_batch_mates_do_not_matter() -> None:
    network = small_network("rp", "sbn", ALL_ACTIONS)
    batch, encoded = decodable(network, [(6, 4), (0, 2), (1, 1), (2, 8), (5, 5)], 1)
    together = greedy(network, encoded)[0], beam_search(network, encoded, 3), beam_search(network, encoded, 3, 0.7)
    for at in range(5):
        alone = one_at_a_time(network, batch, at)
        assert greedy(network, alone)[0] == [together[0][at]]
        assert beam_search(network, alone, 3) == [together[1][at]]
        assert beam_search(network, alone, 3, 0.7) == [together[2][at]]


@settings(deadline=None, max_examples=20)
@given(sizes=SIZES, seed=st.integers(0, 10**6), penalty=st.sampled_from([0.0, 1.0]))
@torch.no_grad()
def test_a_beam_of_one_is_greedy(sizes: list[tuple[int, int]], seed: int, penalty: float) -> None:
    network = small_network("rp", "none", ALL_ACTIONS, seed % 7)
    _, encoded = decodable(network, sizes, seed)
    assert beam_search(network, encoded, 1, penalty) == greedy(network, encoded)[0]


@pytest.mark.parametrize("actions", [YMS_ACTIONS, ALL_ACTIONS], ids=["yms", "all"])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
@torch.no_grad()
def test_a_wide_beam_finds_the_best_of_all(actions: tuple[Action, ...], penalty: float) -> None:
    sizes = [(1, 1), (3, 2), (2, 2), (0, 2), (1, 3)] if len(actions) == 5 else [(4, 3), (0, 2), (3, 4), (5, 2)]
    narrow_misses = 0
    for seed in range(4):
        network = small_network("rp", "2xln", actions, seed)
        for parameter in network.parameters():
            parameter.mul_(1.5)  # less uniform probabilities, so that greedy errs
        batch, encoded = decodable(network, sizes, seed)
        found = beam_search(network, encoded, 10**4, penalty)
        first = greedy(network, encoded)[0]
        for walker, ids, short in zip(reference.walkers(network, batch), found, first, strict=True):
            every = dict(reference.every_sequence(walker))
            values = {sequence: score / max(1, len(sequence)) ** penalty for sequence, score in every.items()}
            best = max(values.values())
            assert values[tuple(ids)] == pytest.approx(best, abs=1e-5)
            assert torch.tensor(list(every.values())).exp().sum() == pytest.approx(1, abs=1e-5)
            narrow_misses += values[tuple(short)] < best - 1e-3
    assert narrow_misses or penalty  # or this shows nothing


@pytest.mark.parametrize("actions", SETS, ids=lambda s: "+".join(a.value for a in s))
@torch.no_grad()
def test_every_action_set_ends_with_a_legal_alignment(actions: tuple[Action, ...]) -> None:
    network = small_network("rp", "none", actions)
    sizes = [(5, 3), (2, 6), (1, 1), (0, 3), (3, 0)]
    _, encoded = decodable(network, sizes, 2)
    for decoded in (greedy(network, encoded)[0], beam_search(network, encoded, 4), beam_search(network, encoded, 4, 1)):
        for ids, (clips, snippets) in zip(decoded, sizes, strict=True):
            alignment = play(ids, clips, snippets, actions)  # raises where a stack is empty
            dropped = (sum(actions[i].drops_clip for i in ids), sum(actions[i].drops_snippet for i in ids))
            assert dropped[0] == clips or dropped[1] == snippets
            pairs = [(i, j) for i, texts in enumerate(alignment) for j in texts]
            assert pairs == sorted(pairs)
            assert [j for _, j in pairs] == sorted(j for _, j in pairs)


def test_every_useful_action_set_is_allowed() -> None:
    for actions in SETS:
        assert NeuMATCHConfig(actions=actions).actions == actions
    assert len(SETS) > 15


def example(clips: int, snippets: int, network: NeuMATCH, seed: int) -> Example:
    source = torch.Generator().manual_seed(seed)

    def rows(count: int, modality: str) -> Tensor:
        return torch.randn(count, sample_width(network, modality), generator=source)

    movie = Movie(
        str(seed),
        tuple(Clip(f"c{i}", i, i + 1) for i in range(clips)),
        tuple(Snippet(f"s{j}", "x", j, j + 1) for j in range(snippets)),
    )
    return Example(movie, rows(clips, "video"), rows(snippets, "text"))


@pytest.mark.parametrize("config", [DecodingConfig(), DecodingConfig(method="beam", width=3)], ids=["greedy", "beam"])
@pytest.mark.parametrize("training", [True, False])
def test_align(config: DecodingConfig, training: bool) -> None:
    network = small_network("full", "sbn").train(training)
    examples = [example(6, 3, network, 0), example(2, 5, network, 1)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    alignments = align(network, examples, config)
    assert network.training is training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for made, movie in zip(alignments, examples, strict=True):
        (alone,) = align(network, [movie], config)
        assert made == alone
        # In time order: the reference, fed with the sequences turned around by hand.
        lengths = torch.tensor([len(movie.video)]), torch.tensor([len(movie.text)])
        batch = Batch(
            movie.video.flip(0)[None], movie.text.flip(0)[None], *lengths, torch.zeros(1, 0).long(), lengths[0]
        )
        with torch.no_grad():
            (walker,) = reference.walkers(network.eval(), batch)
            if config.method == "greedy":
                assert made == play(reference.greedy(walker)[0], len(movie.video), len(movie.text))
        network.train(training)
    assert align(network, [], config) == []


@pytest.mark.parametrize("values", [{"method": "best"}, {"width": 0}, {"length_penalty": 1.5}, {"beam": 3}], ids=str)
def test_configuration(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DecodingConfig.model_validate(values)
