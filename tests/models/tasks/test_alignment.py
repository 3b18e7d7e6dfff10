"""The alignment task: losses of any cut of a batch add up, scores are the metrics', nothing breaks on nothing."""

import pytest
import torch

from models.data.captioned import Captioned
from models.data.examples import Example
from models.data.features import FeatureStore
from models.data.synthetic import CLIP_FEATURES, generate_movies
from models.data.yms import read_splits, read_yms
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.metrics import score
from models.neumatch.network import NeuMATCHConfig
from models.neumatch.samples import Preprocessors, training_samples
from models.optim.lars import LARS
from models.tasks.alignment import AlignmentTask, LearningConfig, stack_statistics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Example]]:
    """Generated movies by split; the text features are random."""
    folder = tmp_path_factory.mktemp("movies")
    generate_movies(folder, 6, seed=1, width=16)
    store, read = FeatureStore.open(folder / CLIP_FEATURES), read_yms(folder)
    source = torch.Generator().manual_seed(0)

    def example(name: str) -> Example:
        movie = read[name]
        return Example(
            movie,
            store.gather([clip.id for clip in movie.clips]),
            torch.randn(len(movie.snippets), 9, generator=source),
        )

    return {split: [example(name) for name in names] for split, names in read_splits(folder, read).items()}


def made(
    movies: dict[str, list[Example]],
    projection: str = "rp",
    normalisation: str = "none",
    decoding: DecodingConfig | None = None,
) -> AlignmentTask:
    config = NeuMATCHConfig.model_validate({"width": 8, "projection": projection, "normalisation": normalisation})
    preprocessors = Preprocessors.fit(movies["train"], 8 if projection == "rp" else None, 0)
    task = AlignmentTask(config, preprocessors, longest=12, learning=LearningConfig(), decoding=decoding)
    task.prepare(movies)
    return task


def test_samples_are_those_of_the_preprocessed_movies(movies: dict[str, list[Example]]) -> None:
    task = made(movies)
    expected = [
        sample
        for movie in movies["train"]
        for sample in training_samples(task.preprocessors.apply(movie), 12, task.config.actions)
    ]
    assert len(task.samples) == len(expected) > 5
    for ours, theirs in zip(task.samples, expected, strict=True):
        assert ours.actions == theirs.actions
        assert torch.equal(ours.video, theirs.video)
        assert torch.equal(ours.text, theirs.text)


@pytest.mark.parametrize(("projection", "widths"), [("rp", (8, 8)), ("full", (16, 9))])
def test_network_fits_the_features(movies: dict[str, list[Example]], projection: str, widths: tuple[int, int]) -> None:
    task = made(movies, projection, "sbn")
    assert task.widths == widths
    losses, encoded = task.losses(task.network(), task.batch([0, 1], CPU), task.names)
    assert list(losses) == ["actions"] == [task.primary]
    assert float(losses["actions"].detach()) > 0
    assert len(encoded.video) == sum(len(sample.video) for sample in task.samples[:2])


def test_losses_of_any_cut_add_up(movies: dict[str, list[Example]]) -> None:
    task = made(movies)
    torch.manual_seed(0)
    network = task.network().double()

    def total(cuts: list[list[int]]) -> tuple[float, list[torch.Tensor], float]:
        network.zero_grad()
        batches = [task.batch(indices, CPU) for indices in cuts]
        weight = sum(task.weights(batch)["actions"] for batch in batches)
        loss = torch.stack([task.losses(network, batch, task.names)[0]["actions"] / weight for batch in batches]).sum()
        loss.backward()
        return float(loss.detach()), [p.grad.clone() for p in network.parameters() if p.grad is not None], weight

    whole = total([[0, 1, 2, 3, 4]])
    assert whole[2] == sum(len(task.samples[i].actions) for i in range(5))
    for cuts in ([[0, 1], [2, 3, 4]], [[4, 2], [], [0], [3, 1]]):
        loss, found, _ = total(cuts)
        assert loss == pytest.approx(whole[0], rel=1e-12)
        for ours, theirs in zip(found, whole[1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_share_without_samples(movies: dict[str, list[Example]]) -> None:
    task = made(movies, normalisation="sbn")
    batch = task.batch([], CPU)
    losses, _ = task.losses(task.network(), batch, task.names)
    assert float(losses["actions"].detach()) == 0
    assert task.weights(batch) == {"actions": 0.0}
    sums = task.score_sums(task.network(), "validation", rank=1, workers=2)  # of one movie
    assert torch.equal(sums, torch.zeros(3, dtype=torch.float64))
    assert task.scores(sums) == {}


@pytest.mark.parametrize("decoding", [DecodingConfig(), DecodingConfig(method="beam", width=2)], ids=["greedy", "beam"])
def test_scores_are_those_of_the_metrics(movies: dict[str, list[Example]], decoding: DecodingConfig) -> None:
    chosen = movies["validation"] + movies["test"]
    task = made({**movies, "test": chosen}, decoding=decoding)
    torch.manual_seed(0)
    network = task.network()
    alignments = align(network, [task.preprocessors.apply(example) for example in chosen], decoding)
    expected = score([example.movie for example in chosen], alignments)
    sums = task.score_sums(network, "test")
    assert sums.dtype == torch.float64
    assert sums[2] == len(chosen)
    assert task.scores(sums) == {
        "video_accuracy": pytest.approx(expected.video_accuracy),
        "text_iou": pytest.approx(expected.text_iou),
    }
    # Workers may score a share each.
    parts = [task.score_sums(network, "test", rank, 2) for rank in range(2)]
    torch.testing.assert_close(parts[0] + parts[1], sums)


@pytest.mark.parametrize("normalisation", ["none", "sbn", "2xln", "4xln"])
def test_it_learns(movies: dict[str, list[Example]], normalisation: str) -> None:
    torch.manual_seed(0)
    task = made(movies, normalisation=normalisation)
    network, batch = task.network(), task.batch(range(8), CPU)
    optimiser, seen = LARS(network.parameters(), lr=0.02), []
    for _ in range(20):
        loss = task.losses(network, batch, task.names)[0]["actions"] / task.weights(batch)["actions"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.8 * seen[0]


def test_stack_statistics(movies: dict[str, list[Example]]) -> None:
    task = made(movies, normalisation="sbn")
    _, encoded = task.losses(task.network(), task.batch([0, 1, 2], CPU), task.names)
    figures = stack_statistics(encoded, dimensions=5)
    assert sorted(figures) == ["stack/text_mean", "stack/text_variance", "stack/video_mean", "stack/video_variance"]
    assert figures["stack/video_mean"] == pytest.approx([0.0] * 5, abs=1e-5)  # SBN sees to it
    assert figures["stack/video_variance"] == pytest.approx([1.0] * 5, abs=0.1)  # but for its epsilon
    rows = encoded.text.detach()
    assert figures["stack/text_mean"] == pytest.approx(rows.mean(0)[:5].tolist(), abs=1e-5)
    assert figures["stack/text_variance"] == pytest.approx(rows.var(0)[:5].tolist(), rel=1e-4)
    _, nothing = task.losses(task.network(), task.batch([], CPU), task.names)
    assert stack_statistics(nothing) == {}


def learning(movies: dict[str, list[Example]], **values: object) -> AlignmentTask:
    config = NeuMATCHConfig.model_validate({"width": 8, "normalisation": "none"})
    preprocessors = Preprocessors.fit(movies["train"], 8, 0)
    task = AlignmentTask(config, preprocessors, 12, LearningConfig.model_validate(values))
    task.prepare(movies)
    return task


@pytest.mark.parametrize("values", [{"recompose": 0.7}, {"feature_dropout": 0.4}, {"own_decisions": 0.5}], ids=str)
def test_chance_is_of_the_draw_and_the_sample_alone(movies: dict[str, list[Example]], values: dict[str, float]) -> None:
    task = learning(movies, **values)
    network = task.network()
    whole, draws = list(range(6)), (5, 6)

    def losses(rows: list[int], draw: int) -> tuple[float, float]:
        batch = task.batch(rows, CPU, draw)
        return float(task.losses(network, batch, ("actions",))[0]["actions"].detach()), task.weights(batch)["actions"]

    together = [losses(whole, draw) for draw in draws]
    assert together[0] != together[1]
    assert losses(whole, 5) == together[0]
    parts = [losses(rows, 5) for rows in ([0, 1, 2, 3], [4], [5], [])]
    assert sum(loss for loss, _ in parts) == pytest.approx(together[0][0], rel=1e-5)
    assert sum(weight for _, weight in parts) == together[0][1]


def test_own_decisions_see_states_off_the_gold_path(movies: dict[str, list[Example]]) -> None:
    task, plain = learning(movies, own_decisions=1.0), learning(movies)
    torch.manual_seed(0)
    network = task.network()
    optimiser = LARS(network.parameters(), 0.02)
    rows = list(range(len(task)))
    first = last = 0.0
    for step in range(40):
        batch = task.batch(rows, CPU, step)
        loss = task.losses(network, batch, ("actions",))[0]["actions"] / task.weights(batch)["actions"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (float(loss.detach()) if step == 0 else first), float(loss.detach())
    assert last < 0.8 * first
    assert task.weights(task.batch(rows, CPU)) == plain.weights(plain.batch(rows, CPU))


def test_pretraining_reads_captions_only_when_asked(movies: dict[str, list[Example]]) -> None:
    config = NeuMATCHConfig.model_validate(
        {"width": 8, "normalisation": "none", "lookahead": {"hidden": 8, "joint": 4}}
    )
    preprocessors = Preprocessors.fit(movies["train"], 8, 0)
    asked: list[int] = []
    source = torch.Generator().manual_seed(0)
    video, text = torch.randn(6, 16, generator=source), torch.randn(3, 9, generator=source)
    rows, group = torch.tensor([[i, i // 2] for i in range(6)]), torch.arange(6) // 2

    def captions() -> Captioned:
        asked.append(1)
        return Captioned(video, text, rows, group)

    weights = []
    for contrastive, source_of in ((None, captions), ({"epochs": 1}, lambda: None), ({"epochs": 1}, captions)):
        values = LearningConfig.model_validate({"contrastive": contrastive})
        task = AlignmentTask(config, preprocessors, 12, values, captions=source_of)
        task.prepare(movies)
        torch.manual_seed(0)
        network = task.network()
        task.pretrain(network, 1)
        weights.append(network.lookahead.text.weight.detach())
    assert asked == [1]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
