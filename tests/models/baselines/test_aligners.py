"""The baselines on a small movie world that can be learned, and on the composed set with its known figures."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.baselines import ALIGNERS
from models.baselines.held_out import hold_out
from models.baselines.ridge import Ridge
from models.baselines.trivial import Uniform
from models.baselines.two_tower import TwoTower, TwoTowerConfig
from models.data.alignment_set import AlignmentDataConfig, load_annotations, load_examples
from models.data.examples import Example
from models.data.movie import Clip, Movie, Snippet
from models.errors import UserError
from models.neumatch.contrastive import contrastive_loss
from models.neumatch.metrics import Score, score
from models.neumatch.pairs import matched_pairs


def _composed(root: Path) -> AlignmentDataConfig:
    return AlignmentDataConfig(
        root=str(root),
        annotations="yms_msrvtt",
        clip_features="msrvtt/frame_features.npz",
        clip_index="yms_msrvtt/clip_frames.csv",
    )


def _world(movies: int, seed: int = 0) -> list[Example]:
    """Each snippet owns one to six clips, then comes one that shows nothing; a clip is a noisy linear map of its text.

    The uneven lengths are what makes dividing the time equally a poor guess.
    """
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 12, generator=torch.Generator().manual_seed(99))
    examples = []
    for number in range(movies):
        text = F.normalize(torch.randn(6, 8, generator=generator), dim=1)
        shown: list[Tensor] = []
        snippets = []
        for j, length in enumerate(torch.randint(1, 7, (6,), generator=generator).tolist()):
            snippets.append(Snippet(f"{number}-{j}", "t", len(shown), len(shown) + length))
            shown += [text[j]] * length + [torch.zeros(8)]
        clips = tuple(Clip(f"{number}-{i}", i, i + 1) for i in range(len(shown)))
        video = torch.stack(shown) @ mixing + 0.1 * torch.randn(len(shown), 12, generator=generator)
        examples.append(Example(Movie(str(number), clips, tuple(snippets)), video, text))
    return examples


def _figures(name: str, train: list[Example], test: list[Example]) -> Score:
    aligner = ALIGNERS[name]()
    aligner.fit(train)
    return score([e.movie for e in test], [aligner.align(e) for e in test])


def test_uniform_goes_by_the_midpoint() -> None:
    clips = (Clip("a", 0, 3), Clip("b", 3, 6), Clip("c", 6, 10))
    movie = Movie("m", clips, (Snippet("x", "one", 0, 1), Snippet("y", "two", 1, 2)))
    assert Uniform().align(Example(movie, torch.zeros(3, 1), torch.zeros(2, 1))) == [(0,), (0,), (1,)]


def test_ridge_learns_a_linear_world() -> None:
    train, test = _world(20), _world(5, seed=1)
    learned, uniform = _figures("ridge", train, test), _figures("uniform", train, test)
    assert learned.video_accuracy > uniform.video_accuracy + 25
    assert learned.text_iou > uniform.text_iou + 25


def test_two_tower_learns_a_linear_world() -> None:
    aligner = TwoTower(TwoTowerConfig(hidden=32, joint=8, epochs=15, batch=64, rate=1e-2))
    train, test = _world(20), _world(5, seed=1)
    aligner.fit(train)
    learned = score([e.movie for e in test], [aligner.align(e) for e in test])
    uniform = _figures("uniform", train, test)
    assert learned.video_accuracy > uniform.video_accuracy + 25
    assert learned.text_iou > uniform.text_iou + 25


def test_two_tower_is_seeded_and_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    one, two = TwoTower(), TwoTower()
    one.fit(_world(4))
    two.fit(_world(4))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(one.towers.parameters(), two.towers.parameters(), strict=True):
        assert torch.equal(a, b)


def _slow_contrastive_loss(logits: Tensor, snippet: Tensor) -> float:
    """Pair by pair: its own logit against those of the other snippets, in both directions."""
    terms = []
    for i in range(len(snippet)):
        others = [k for k in range(len(snippet)) if snippet[k] != snippet[i]]
        for rivals in ([logits[i, k] for k in others], [logits[k, i] for k in others]):
            total = sum(math.exp(rival) for rival in [logits[i, i], *rivals])
            terms.append(math.log(total) - float(logits[i, i]))
    return sum(terms) / len(terms)


def test_pairs_of_one_snippet_are_not_negatives() -> None:
    snippet = torch.tensor([0, 0, 1, 2, 2, 2])
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert contrastive_loss(logits, snippet).item() == pytest.approx(_slow_contrastive_loss(logits, snippet))
    assert contrastive_loss(logits, snippet).item() != pytest.approx(contrastive_loss(logits, torch.arange(6)).item())


def test_a_shared_text_is_seen_by_the_loss() -> None:
    """With one text a snippet, sharing targets would equal plain InfoNCE; leaving the denominator does not."""
    snippet = torch.tensor([0, 0, 1, 2])
    generator = torch.Generator().manual_seed(4)
    texts = torch.randn(3, 5, generator=generator)[snippet]
    logits = torch.randn(4, 5, generator=generator) @ texts.T
    assert contrastive_loss(logits, snippet).item() < contrastive_loss(logits, torch.arange(4)).item() - 1e-3


def test_matched_pairs_number_the_snippets_over_all_movies() -> None:
    examples = _world(2)
    pairs = matched_pairs(examples)
    first, second = (example.movie for example in examples)
    lengths = [int(s.end - s.start) for s in (*first.snippets, *second.snippets)]
    assert pairs.snippet.tolist() == [j for j, length in enumerate(lengths) for _ in range(length)]
    assert torch.equal(pairs.text, torch.cat([e.text for e in examples])[pairs.snippet])
    assert len(pairs.video) == sum(lengths)


def test_hold_out_takes_every_fifth_movie_and_never_leaves_a_side_empty() -> None:
    examples = _world(10)
    kept, held = hold_out(examples, 5)
    assert [e.movie.id for e in held] == ["4", "9"]
    assert len(kept) == 8
    assert [[e.movie.id for e in side] for side in hold_out(examples[:1], 5)] == [["0"], ["0"]]
    assert [[e.movie.id for e in side] for side in hold_out(examples[:2], 5)] == [["0"], ["1"]]


@pytest.mark.parametrize("aligner", [Ridge(), TwoTower()])
def test_nothing_to_learn_from_is_one_line(aligner: Ridge | TwoTower) -> None:
    silent = Movie("m", (Clip("a", 0, 1),), (Snippet("x", "one", 0, 1, matched=False),))
    with pytest.raises(UserError, match="no training movies"):
        aligner.fit([])
    with pytest.raises(UserError, match="matched clip"):
        aligner.fit([Example(silent, torch.zeros(1, 3), torch.zeros(1, 3))])


@pytest.mark.parametrize(("name", "video", "text"), [("all_unmatched", 15.1, 0.0), ("uniform", 8.0, 6.1)])
def test_trivial_figures_of_the_composed_set(data_root: Path, name: str, video: float, text: float) -> None:
    movies = load_annotations(_composed(data_root))["test"]
    test = [Example(movie, torch.empty(len(movie.clips), 0), torch.empty(len(movie.snippets), 0)) for movie in movies]
    figures = _figures(name, [], test)
    assert figures.video_accuracy == pytest.approx(video, abs=0.1)
    assert figures.text_iou == pytest.approx(text, abs=0.1)


@pytest.mark.slow
def test_learned_figures_of_the_composed_set(data_root: Path) -> None:
    examples = load_examples(_composed(data_root))
    ridge = _figures("ridge", examples["train"], examples["test"])
    assert ridge.video_accuracy > 50
    assert ridge.text_iou > 45
    towers = _figures("two_tower", examples["train"], examples["test"])
    assert towers.video_accuracy > 55
    assert towers.text_iou > 48
