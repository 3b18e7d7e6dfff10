"""Retrieval and captioning: inputs as the losses want them, scores over any workers, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.tasks import load_task
from models.backbones.univl.network import LOSSES, UniVL
from models.errors import UserError
from models.metrics.retrieval import ranks, retrieval_scores
from models.tasks.video_text import VideoTextTask
from tests.models.data.test_mosi import write
from tests.support.small_videos import TESTED, small_videos, video_recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_videos(tmp_path_factory.mktemp("videos"))


def made(data: Path, **changes: Any) -> VideoTextTask:
    task = load_task(video_recipe(data, data, changes))
    assert isinstance(task, VideoTextTask)
    return task


def test_a_sample_is_a_caption_or_a_video(data: Path) -> None:
    assert len(made(data)) == 16 * 3
    task = made(data, **{"inputs.sample": "video"})
    assert len(task) == 16
    drawn = set()
    for draw in range(8):
        batch = task.batch([5], CPU, draw)
        video = task.train.videos[5]
        text = task.tokenizer.text(batch.ids[0, 1:].tolist())
        assert text in task.train.references()[5], video
        drawn.add(text)
    assert len(drawn) > 1


def test_every_part_of_the_network_has_a_name(data: Path) -> None:
    task = made(data)
    assert {task.component(name) for name, _ in task.network().named_parameters()} == set(UniVL.COMPONENTS)


def test_inputs(data: Path) -> None:
    task = made(data)
    batch = task.batch([0, 7, 30], CPU, 4)
    for row, index in enumerate((0, 7, 30)):
        length = int(batch.mask[row].sum())
        words = batch.ids[row, :length].tolist()
        assert words[0] == 101
        assert words[-1] == 102
        assert batch.caption_ids[row].tolist() == [*words[:-1], *[0] * (13 - length)]
        assert batch.caption_labels[row].tolist() == [*words[1:], *[0] * (13 - length)]
        assert int(batch.caption_mask[row].sum()) == length - 1
        video = int(task.video_of[index])
        count = int(task.train.frames.counts[video])
        assert int(batch.video_mask[row].sum()) == count
        torch.testing.assert_close(batch.video[row, :count], task.train.frames.features[video, :count].float())
        gone = batch.frame_labels[row] != -1
        assert bool((batch.masked_video[row][gone] == 0).all())
        assert torch.equal(batch.masked_video[row][~gone], batch.video[row][~gone])
    assert batch.memory_ids is not None
    assert batch.memory_ids.tolist() == [[101, 102]] * 3
    again = task.batch([30], CPU, 4)
    assert torch.equal(again.masked_ids[0], batch.masked_ids[2])
    assert made(data, **{"inputs.caption_leak": True}).batch([0], CPU, 0).memory_ids is None


def test_the_decoder_sees_the_caption_only_if_told_to(data: Path) -> None:
    """Other words in the text encoder change the decoder's loss with the leak, and not without."""
    for leak in (False, True):
        task = made(data, **{"inputs.caption_leak": leak})
        torch.manual_seed(0)
        network = task.network().eval()
        batch = task.batch([0, 7], CPU, 4)
        other = type(batch)(**{**vars(batch), "ids": batch.ids.flip(0), "mask": batch.mask.flip(0)})
        found = [task.losses(network, b, ("decoder",))[0]["decoder"].item() for b in (batch, other)]
        assert (found[0] != found[1]) == leak


def test_losses_of_any_names_and_of_nothing(data: Path) -> None:
    task = made(data)
    network = task.network()
    for names in (LOSSES, ("align",), ("m_decoder", "cmfm")):
        losses, _ = task.losses(network, task.batch([0, 1, 2], CPU, 0), names)
        assert set(losses) == set(names)
    losses, _ = task.losses(network, task.batch([], CPU, 0), LOSSES)
    assert all(loss.item() == 0 for loss in losses.values())
    assert set(task.weights(task.batch([], CPU, 0)).values()) == {0.0}


@pytest.mark.parametrize("kind", ["retrieval", "captioning"])
def test_scores_are_the_same_on_any_workers(data: Path, kind: str) -> None:
    task = made(data, task=kind)
    torch.manual_seed(0)
    network = task.network()
    alone = task.score_sums(network, "validation", 0, 1)
    for workers in (2, 3, 9):
        parts = [task.score_sums(network, "validation", rank, workers) for rank in range(workers)]
        assert torch.equal(torch.stack(parts).sum(0), alone)
    assert task.selected(task.scores(alone, "validation")) >= 0
    assert network.training


def test_retrieval_scores_beside_the_whole_matrix(data: Path) -> None:
    task = made(data)
    torch.manual_seed(0)
    network = task.network().eval()
    split = task.splits["test"]
    table = task.tokenizer.table([query.text for query in split.queries], 12)
    mask = (torch.arange(12) < table.lengths[:, None]).long()
    with torch.no_grad():
        rows = []
        for number in range(TESTED):  # a text and a video at a time
            own = slice(number, number + 1)
            text = network.encode_text(table.ids[own].long(), torch.zeros(1, 12).long(), mask[own])
            row = []
            for video in range(TESTED):
                features, frame_mask = task._videos(split, torch.tensor([video]))
                encoded = network.encode_video(features, frame_mask)
                crossed = network.cross(text, encoded, torch.cat([mask[own], frame_mask], 1))
                row.append(network.similarity_dense(network.cross.pool(crossed))[0, 0])
            rows.append(torch.stack(row))
    expected = retrieval_scores(ranks(torch.stack(rows), torch.arange(TESTED)))
    assert task.scores(task.score_sums(network, "test", 0, 1), "test") == pytest.approx(expected)


def test_retrieval_by_the_joint_scores(data: Path) -> None:
    task = made(data, primary="joint")
    assert task.primary == "joint"
    torch.manual_seed(0)
    network = task.network().eval()
    split = task.splits["test"]
    queries = torch.arange(len(split.queries))
    with torch.no_grad():
        text, mask = task._texts(network, split, queries, CPU)
        video, video_mask = task._encoded(network, split, torch.arange(len(split)), CPU)
        scores = torch.zeros(len(queries), len(split))
        for i in range(len(queries)):  # the mean of each text without [CLS], and of each video, at unit length
            words = text[i, 1 : int(mask[i].sum())].mean(0)
            for j in range(len(split)):
                frames = video[j, : int(video_mask[j].sum())].mean(0)
                scores[i, j] = words @ frames / words.norm() / frames.norm()
    expected = retrieval_scores(ranks(scores, torch.tensor([query.video for query in split.queries])))
    parts = [task.score_sums(network, "test", rank, 2) for rank in range(2)]
    assert task.scores(parts[0] + parts[1], "test") == pytest.approx(expected)
    with pytest.raises(ValueError, match="primary='joint' is of task='retrieval'; leave it out for 'captioning'"):
        video_recipe(data, data, {"task": "captioning", "primary": "joint"})


def test_captions_are_scored(data: Path) -> None:
    task = made(data, task="captioning")
    split = task.splits["validation"]
    sums = torch.zeros(len(split), 8, dtype=torch.float64)
    for row, texts in enumerate(split.references()):
        ids = task.tokenizer.table([texts[0]], 9).ids[0, 1:]
        sums[row] = ids.double()
    assert task.scores(sums, "validation")["BLEU-4"] == pytest.approx(100, abs=0.1)
    assert "METEOR" not in task.scores(sums, "validation")


def test_sizes_that_do_not_fit(data: Path) -> None:
    with pytest.raises(UserError, match=r"model.text_positions=16: inputs take up to 40; raise it"):
        made(data, task="captioning", **{"decoding.max_words": 40})
    made(data, **{"decoding.max_words": 40})  # retrieval says nothing
    for changes, message in (
        ({"model.video_dim": 7}, "model.video_dim=7: the data has 12"),
        ({"model.vocabulary": 9}, "model.vocabulary=9: the data has 30522"),
        ({"model.text_positions": 5}, "model.text_positions=5: inputs take up to 12"),
    ):
        with pytest.raises(UserError, match=message):
            made(data, **changes)


def test_sentiment(tmp_path: Path) -> None:
    write(tmp_path / "mosi.npz")
    data = {"name": "mosi", "path": str(tmp_path / "mosi.npz"), "validation": 0.25}
    changes = {"task": "sentiment", "data": data, "model.video_dim": 8}
    with pytest.raises(UserError, match=r"set model\.sentiment=true"):
        load_task(video_recipe(tmp_path, tmp_path, changes))
    task = load_task(video_recipe(tmp_path, tmp_path, {**changes, "model.sentiment": True}))
    assert isinstance(task, VideoTextTask)
    assert task.primary == "sentiment"
    assert "decoder" not in task.names
    network = task.network()
    batch = task.batch([0, 3], CPU, 0)
    losses, _ = task.losses(network, batch, task.names)
    sums = task.score_sums(network, "test", 0, 1)
    shares = torch.stack([task.score_sums(network, "test", rank, 3) for rank in range(3)])
    torch.testing.assert_close(shares.sum(0), sums, rtol=1e-5, atol=1e-6)
    scores = task.scores(sums, "test")
    labels = torch.linspace(-3, 3, 12)[8:]
    assert scores["MAE"] == pytest.approx(float((sums - labels).abs().mean()), rel=1e-5)
    assert task.selected(scores) == -scores["MAE"]
    assert task.train.labels is not None
    rows = task.video_of[[0, 3]]
    expected = (task.score_sums(network, "train", 0, 1)[rows] - task.train.labels[rows]).abs().sum()
    assert losses["sentiment"].item() == pytest.approx(float(expected), rel=1e-4)


def test_tasks_and_data_that_do_not_fit(data: Path) -> None:
    with pytest.raises(ValueError, match="has nothing for task='sentiment'"):
        video_recipe(data, data, {"task": "sentiment"})
