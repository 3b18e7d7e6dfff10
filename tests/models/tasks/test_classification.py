"""Image classification: a sample's randomness is its own, losses of any cut add up, nothing breaks on nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbones.resnet import ResNet, ResNetConfig
from models.data.cifar import ImageSet, digits
from models.data.classification_set import ClassificationDataConfig
from models.tasks.classification import ClassificationTask, ImageBatch, channel_statistics, draw_chances
from models.tasks.task import Task

CPU = torch.device("cpu")
SMALL = ResNetConfig(depth=8, widths=(4, 6, 8))
CLASSES = ("a", "b", "c", "d", "e")


def some_images(count: int, side: int = 10, seed: int = 0) -> ImageSet:
    source = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=source, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, 5, (count,), generator=source), CLASSES)


def made(**changes: object) -> ClassificationTask:
    splits = {"train": some_images(40), "validation": some_images(23, seed=1), "test": some_images(0)}
    config = ClassificationDataConfig.model_validate({"name": "cifar100", **changes})
    return ClassificationTask(SMALL, config, splits)


def parts(batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
    plain, mixed, rotated = batch.images.chunk(3)
    return plain, mixed, rotated


def network_of(task: ClassificationTask) -> ResNet:
    torch.manual_seed(0)
    return task.network().double()


def test_it_is_a_task() -> None:
    task: Task = made()
    assert (task.names, task.primary, len(task)) == (("classification", "mixup", "rotation"), "classification", 40)
    assert task.component("stages.1.0.conv1.weight") == "stage_2"
    with pytest.raises(ValueError, match="training split is empty"):
        ClassificationTask(SMALL, ClassificationDataConfig(), {"train": some_images(0)})


# Batches


@pytest.mark.parametrize("augment", [True, False])
def test_a_sample_does_not_know_its_mates(augment: bool) -> None:
    task = made(augment=augment)
    alone, among = task.batch([5], CPU, 11), task.batch([3, 5, 39], CPU, 11)
    for one, three in zip(parts(alone), parts(among), strict=True):
        assert torch.equal(one[0], three[1])
    for name in ("labels", "partner_labels", "shares", "quarters"):
        assert getattr(alone, name)[0] == getattr(among, name)[1]
    # Another draw is another picture, another share, another partner.
    other = task.batch([5], CPU, 12)
    assert not torch.equal(parts(alone)[1], parts(other)[1])
    assert alone.shares[0] != other.shares[0]


def test_chances_are_spread_as_they_should_be() -> None:
    chances = draw_chances(range(4000), draw=3, images=50, alpha=0.4)
    for values, count in [
        (chances.partners, 50),
        (chances.quarters, 4),
        (chances.crops[0], 9),
        (chances.crops[1], 9),
        (chances.crops[2], 2),
    ]:
        share = values.bincount(minlength=count).double() / len(values)
        assert share.shape == (count,)
        torch.testing.assert_close(share, torch.full_like(share, 1 / count), rtol=0.35, atol=0)
    assert float(chances.shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(chances.shares.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of Beta(a, a)
    # Each is drawn for itself: none goes along with another, nor with the partner's crop.
    rows = torch.stack([chances.partners, chances.quarters, chances.shares, *chances.crops.view(6, -1)]).double()
    together = torch.corrcoef(rows) - torch.eye(9, dtype=torch.float64)
    assert float(together.abs().max()) < 0.06


def test_without_augmentation_batches_are_the_images() -> None:
    task = made(augment=False)
    indices = [7, 0, 39, 7]
    batch = task.batch(indices, CPU, 2)
    pixels = task.train.images.double()
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    chances = draw_chances(indices, 2, 40, 1.0)
    for row, index in enumerate(indices):
        plain, partner = (
            ((pixels[number] - mean[:, None, None]) / deviation[:, None, None]).float()
            for number in (index, int(chances.partners[row]))
        )
        share, quarters = batch.shares[row], int(batch.quarters[row])
        images = [part[row] for part in parts(batch)]
        torch.testing.assert_close(images[0], plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(images[1], share * plain + (1 - share) * partner, rtol=1e-5, atol=1e-5)
        assert torch.equal(images[2], torch.rot90(images[0], quarters, (1, 2)))
        assert batch.labels[row] == task.train.labels[index]
        assert batch.partner_labels[row] == task.train.labels[chances.partners[row]]


def test_crops_and_mirror_images() -> None:
    task, plain = made(), made(augment=False)
    indices = list(range(20))
    chances = draw_chances(indices, 5, 40, 1.0)
    batch, whole = task.batch(indices, CPU, 5), plain.batch(indices, CPU, 5)
    cut = torch.zeros(40, 3, 10, 10)
    for row, image in enumerate(
        torch.cat([parts(whole)[0], plain.batch(chances.partners.tolist(), CPU, 0).images[:20]])
    ):
        top, left, mirrored = chances.crops[:, row].tolist()
        padded = torch.zeros(3, 18, 18)
        padded[:, 4:14, 4:14] = image
        window = padded[:, top : top + 10, left : left + 10]
        cut[row] = window.flip(2) if mirrored else window
    share = batch.shares[:, None, None, None]
    assert torch.equal(parts(batch)[0], cut[:20])
    torch.testing.assert_close(parts(batch)[1], share * cut[:20] + (1 - share) * cut[20:])
    for row, quarters in enumerate(batch.quarters.tolist()):
        assert torch.equal(parts(batch)[2][row], torch.rot90(cut[row], quarters, (1, 2)))
    assert len(set(batch.quarters.tolist())) == 4


def test_digits_are_never_mirrored() -> None:
    splits = {"train": digits("train")}
    tasks = [
        ClassificationTask(SMALL, ClassificationDataConfig(name="digits", augment=augment), splits)
        for augment in (True, False)
    ]
    assert torch.equal(*(task.batch(range(9), CPU, 1).images for task in tasks))


def test_channel_statistics() -> None:
    pixels = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 2, 2)
    mean, deviation = channel_statistics(pixels)
    for channel in range(3):
        values = pixels[:, channel].double().numpy()
        assert float(mean[channel]) == pytest.approx(np.mean(values), rel=1e-6)
        assert float(deviation[channel]) == pytest.approx(np.std(values), rel=1e-6)
    assert channel_statistics(torch.full((3, 3, 2, 2), 255, dtype=torch.uint8))[1].tolist() == [1, 1, 1]


# Losses


class Counted(nn.Module):
    """A network that counts its calls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return self.network(images)


def test_losses_by_hand() -> None:
    task = made()
    network, batch = Counted(network_of(task).eval()), task.batch([4, 9, 30], CPU, 1)
    losses, seen = task.losses(network, batch, task.names)
    assert network.calls == 1
    assert (tuple(losses), task.figures(seen)) == (task.names, {})
    assert task.weights(batch) == {"classification": 3, "mixup": 3, "rotation": 3}
    expected = dict.fromkeys(task.names, 0.0)
    for row, (plain, mixed, rotated) in enumerate(zip(*parts(batch), strict=True)):
        own, partner = int(batch.labels[row]), int(batch.partner_labels[row])
        share = float(batch.shares[row])

        def surprise(image: Tensor, head: int, label: int) -> float:
            return -float(network.network(image[None])[head][0].detach().softmax(0)[label].log())

        expected["classification"] += surprise(plain, 0, own)
        expected["mixup"] += share * surprise(mixed, 0, own) + (1 - share) * surprise(mixed, 0, partner)
        expected["rotation"] += surprise(rotated, 1, int(batch.quarters[row]))
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(expected[name], rel=1e-9)


@pytest.mark.parametrize("cuts", [[[3, 1], [0, 2, 5]], [[0, 2], [], [5], [1, 3]]], ids=str)
def test_losses_of_any_cut_add_up(cuts: list[list[int]]) -> None:
    task = made()
    network = network_of(task).eval()  # over workers, batch statistics need collectives: see test_normalisation.py

    def total(cuts: Sequence[Sequence[int]]) -> tuple[dict[str, float], list[Tensor]]:
        network.zero_grad()
        sums = dict.fromkeys(task.names, 0.0)
        for indices in cuts:
            losses, _ = task.losses(network, task.batch(indices, CPU, 8), task.names)
            torch.stack(list(losses.values())).sum().backward()
            sums = {name: sums[name] + float(loss.detach()) for name, loss in losses.items()}
        return sums, [value.grad.clone() for value in network.parameters() if value.grad is not None]

    (whole, gradients), (pieces, found) = total([[0, 1, 2, 3, 5]]), total(cuts)
    assert pieces == pytest.approx(whole, rel=1e-9)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("augment", [True, False])
def test_a_share_without_images(augment: bool) -> None:
    task = made(augment=augment)
    network, batch = network_of(task), task.batch([], CPU, 0)
    assert batch.images.shape == (0, 3, 10, 10)
    assert set(task.weights(batch).values()) == {0.0}
    losses, _ = task.losses(network, batch, task.names)
    assert {name: float(loss.detach()) for name, loss in losses.items()} == dict.fromkeys(task.names, 0.0)
    torch.stack(list(losses.values())).sum().backward()
    for value in network.parameters():  # workers that have images wait for every one of these
        assert value.grad is not None
        assert not bool(value.grad.any())


def test_losses_count_in_float32() -> None:
    task = made()
    losses, _ = task.losses(task.network().to(torch.bfloat16), task.batch([0, 1], CPU, 0), task.names)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


# Scores


@pytest.mark.parametrize("training", [True, False])
def test_scores(training: bool) -> None:
    task = made()
    network = network_of(task).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sums = task.score_sums(network, "validation", 0, 1)
    assert network.training == training == network.norm.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.eval()
    split, correct = task.splits["validation"], 0
    for image, label in zip(split.images, split.labels, strict=True):
        values = (image - task.mean[:, None, None]) / task.deviation[:, None, None]
        correct += int(network(values[None])[0].argmax() == label)
    assert (sums.dtype, sums.tolist()) == (torch.float64, [correct, 23])
    assert 0 < correct < 23
    assert task.scores(sums) == {"accuracy": pytest.approx(100 * correct / 23)}
    # Workers score a share each, some of them none.
    for workers in (3, 30):
        shares = [task.score_sums(network, "validation", rank, workers) for rank in range(workers)]
        assert torch.equal(torch.stack(shares).sum(0), sums)
    assert task.scores(task.score_sums(network, "test", 0, 1)) == {}


def test_more_images_than_are_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task = made()
    network = network_of(task)
    whole = task.score_sums(network, "validation", 0, 1)
    monkeypatch.setattr("models.tasks.classification.SCORED_AT_ONCE", 4)
    counted = Counted(network)
    assert torch.equal(task.score_sums(counted, "validation", 0, 1), whole)
    assert counted.calls == 6


def test_it_learns_digits() -> None:
    train = digits("train")
    task = ClassificationTask(
        ResNetConfig(depth=8, widths=(8, 8, 16)),
        ClassificationDataConfig(name="digits"),
        {"train": train, "test": digits("test")},
    )
    torch.manual_seed(0)
    network = task.network()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    seen: list[dict[str, float]] = []
    for step in range(40):
        batch = task.batch(range(32 * step, 32 * step + 32), CPU, step)
        losses, _ = task.losses(network, batch, task.names)
        optimiser.zero_grad()
        (torch.stack(list(losses.values())).sum() / 32).backward()
        optimiser.step()
        seen.append({name: float(loss.detach()) / 32 for name, loss in losses.items()})
    for name in task.names:
        assert sum(losses[name] for losses in seen[-5:]) / 5 < 0.9 * seen[0][name]
    assert task.scores(task.score_sums(network, "test", 0, 1))["accuracy"] > 60
