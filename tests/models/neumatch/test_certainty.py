"""Confidence is the probability of each action, as a walk that takes one action at a time finds it."""

import pytest
import torch

from models.data.examples import Example
from models.data.movie import Alignment, Clip, Movie, Snippet
from models.neumatch.actions import YMS_ACTIONS, Action, gold_actions
from models.neumatch.certainty import confidences, of_snippets
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.network import NeuMATCH, NeuMATCHConfig
from models.neumatch.samples import Sample, collate
from tests.reference.neumatch import walkers

WIDTH = 12
ALL = tuple(Action)


def example(clips: int, snippets: int, seed: int) -> Example:
    random = torch.Generator().manual_seed(seed)
    movie = Movie(
        f"m{seed}",
        tuple(Clip(f"c{i}", i, i + 1) for i in range(clips)),
        tuple(Snippet(f"s{j}", f"text {j}", j, j + 1) for j in range(snippets)),
    )
    return Example(movie, torch.randn(clips, WIDTH, generator=random), torch.randn(snippets, WIDTH, generator=random))


def trained(actions: tuple[Action, ...]) -> NeuMATCH:
    """A network whose normalisation has seen data, as a trained one's has."""
    torch.manual_seed(0)
    network = NeuMATCH(NeuMATCHConfig(width=WIDTH, actions=actions), WIDTH, WIDTH)
    for seed in range(3):
        film = example(9, 5, 50 + seed)
        network(collate([Sample(film.video, film.text, (0,))], WIDTH, WIDTH))
    return network.eval()


@torch.no_grad()
def slowly(network: NeuMATCH, film: Example, alignment: Alignment) -> list[float]:
    """Each clip's probability, one action after another."""
    actions = network.config.actions
    taken = gold_actions(alignment, len(film.movie.snippets), actions)
    (walker,) = walkers(network, collate([Sample(film.video, film.text, tuple(taken))], WIDTH, WIDTH))
    found = [1.0] * len(film.movie.clips)
    for number in taken:
        clip, action = len(film.movie.clips) - len(walker.video), actions[number]
        if action.matches or action is Action.POP_VIDEO:
            found[clip] *= float(walker.logits().softmax(0)[number])
        walker = walker.after(number)
    return found


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_what_was_decoded_is_as_sure_as_step_by_step(method: str) -> None:
    network, films = trained(YMS_ACTIONS), [example(7, 4, 1), example(12, 3, 2), example(3, 6, 3)]
    alignments = align(network, films, DecodingConfig.model_validate({"method": method}))
    found = confidences(network, films, alignments)
    assert [len(values) for values in found] == [7, 12, 3]
    for values, film, alignment in zip(found, films, alignments, strict=True):
        assert values == pytest.approx(slowly(network, film, alignment), abs=1e-5)
        assert all(0 < value < 1 for value in values)


def test_a_clip_with_several_texts_has_the_product_of_its_actions() -> None:
    network, film = trained(ALL), example(4, 5, 4)
    alignment: Alignment = [(0, 1), (), (2,), (2, 4)]
    (found,) = confidences(network, [film], [alignment])
    assert found == pytest.approx(slowly(network, film, alignment), abs=1e-5)


def test_another_alignment_is_given_another_probability() -> None:
    network, film = trained(YMS_ACTIONS), example(4, 3, 5)
    one, other = confidences(network, [film, film], [[(0,), (), (1,), (2,)], [(0,), (1,), (1,), (2,)]])
    assert one[0] == pytest.approx(other[0])
    assert one[1] != pytest.approx(other[1])


def test_nothing_to_align_and_what_cannot_be_made() -> None:
    network = trained(YMS_ACTIONS)
    assert confidences(network, [], []) == []
    with pytest.raises(ValueError, match="match_retain_video"):
        confidences(network, [example(2, 2, 6)], [[(0, 1), ()]])


def test_the_network_stays_in_the_mode_that_it_was_in() -> None:
    network = trained(YMS_ACTIONS).train()
    confidences(network, [example(3, 2, 7)], [[(0,), (0,), (1,)]])
    assert network.training


def test_a_text_is_as_sure_as_its_clips_on_average() -> None:
    assert of_snippets([(0,), (), (0, 2)], 3, [0.5, 0.9, 0.7]) == [pytest.approx(0.6), None, pytest.approx(0.7)]
