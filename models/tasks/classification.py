"""The classification task: images -> the losses classification, mixup, rotation -> accuracy (MELTR, Table 12)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.resnet import ROTATIONS, ResNet, ResNetConfig
from models.data.cifar import ImageSet
from models.data.classification_set import ClassificationDataConfig

PADDING = 4
SCORED_AT_ONCE = 500


@dataclass(frozen=True)
class ImageBatch:
    """B samples, B possibly 0."""

    images: Tensor
    """(3B, 3, h, w) float32: the plain images, then the mixed ones, then the rotated ones."""
    labels: Tensor
    """(B,) int64."""
    partner_labels: Tensor
    """(B,) int64, of the images that were mixed in."""
    shares: Tensor
    """(B,) float32, the lambda of mixup: how much of a mixed image is the sample itself."""
    quarters: Tensor
    """(B,) int64, 0 to 3: by how many quarter turns a rotated image is turned, counterclockwise."""


class ClassificationTask:
    """Turns labelled images into batches and the network's two heads into named losses.

    `classification` is the cross entropy of the plain image; `mixup` (Zhang et al., ICLR 2018) that of a mixture of it
    with any other training image, both labels counting as the images do; `rotation` (Gidaris et al., ICLR 2018) that
    of guessing by how many quarter turns the image was turned.
    """

    names = ("classification", "mixup", "rotation")
    primary = "classification"
    whole_batch = False

    def __init__(self, model: ResNetConfig, data: ClassificationDataConfig, splits: Mapping[str, ImageSet]) -> None:
        """`splits` are those of `load_images`; images must be square. Raises ValueError for an empty training split."""
        self.model, self.data, self.splits = model, data, splits
        self.train = splits["train"]
        if not len(self.train):
            raise ValueError("the training split is empty")
        self.mean, self.deviation = channel_statistics(self.train.images)

    def __len__(self) -> int:
        return len(self.train)

    def network(self) -> ResNet:
        """A freshly initialised network for the classes at hand."""
        return ResNet(self.model, len(self.train.classes))

    def drop_start(self) -> None:
        """Nothing: no configuration names weights."""

    def pretrain(self, network: ResNet, seed: int, say: Callable[[str], None] | None = None) -> None:
        """Nothing: training is all there is."""

    def batch(self, indices: Sequence[int], device: torch.device, draw: int) -> ImageBatch:
        """The training samples at `indices` (possibly none) on `device`, varied as `draw` (0 or more) has it."""
        chances = draw_chances(indices, draw, len(self.train), self.data.mixup_alpha)
        both = torch.cat([torch.tensor(indices, dtype=torch.long), chances.partners])
        halves = [len(indices)] * 2
        labels, partner_labels = self.train.labels[both].to(device).split(halves)
        images = self._standardised(self.train.images[both].to(device))
        if self.data.augment and self.data.name != "digits":
            images = crop_and_mirror(images, chances.crops.to(device))
        plain, partners = images.split(halves)
        shares, quarters = chances.shares.to(device), chances.quarters.to(device)
        weights = shares[:, None, None, None]
        mixed = weights * plain + (1 - weights) * partners
        return ImageBatch(torch.cat([plain, mixed, turn(plain, quarters)]), labels, partner_labels, shares, quarters)

    def weights(self, batch: ImageBatch) -> dict[str, float]:
        """How much each loss of this batch counts: its number of images."""
        return dict.fromkeys(self.names, float(len(batch.labels)))

    def losses(
        self, network: Callable[[Tensor], Any], batch: ImageBatch, names: Sequence[str]
    ) -> tuple[dict[str, Tensor], None]:
        """The losses `names`, each summed over this batch's images; nothing is kept for figures.

        The network is called once, on the images of these losses alone: every call gathers the weights anew where they
        are cut up among workers (ZeRO-3).
        """
        chosen = [name for name in self.names if name in names]
        count = len(batch.labels)
        images = torch.cat([batch.images[count * (at := self.names.index(n)) : count * (at + 1)] for n in chosen])
        classes, rotations = (logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in network(images))
        parts = [slice(count * number, count * (number + 1)) for number in range(len(chosen))]
        losses = {}
        for name, part in zip(chosen, parts, strict=True):
            if name == "classification":
                losses[name] = F.cross_entropy(classes[part], batch.labels, reduction="sum")
            elif name == "mixup":
                shares = batch.shares.to(classes.dtype)
                own = F.cross_entropy(classes[part], batch.labels, reduction="none")
                partner = F.cross_entropy(classes[part], batch.partner_labels, reduction="none")
                losses[name] = (shares * own + (1 - shares) * partner).sum()
            else:
                losses[name] = F.cross_entropy(rotations[part], batch.quarters, reduction="sum")
        return losses, None

    def figures(self, seen: None) -> dict[str, float | list[float]]:
        """None beside the losses."""
        return {}

    def component(self, parameter: str) -> str:
        """The part of the network that a parameter belongs to."""
        return ResNet.component_of(parameter)

    @torch.no_grad()
    def score_sums(self, network: nn.Module, split: str, rank: int, workers: int) -> Tensor:
        """(2,) float64: how many images of this worker's share of `split` are classified rightly, and how many it has.

        The network is put into evaluation mode for it.
        """
        images, labels = (part[rank::workers] for part in (self.splits[split].images, self.splits[split].labels))
        sums = torch.tensor([0.0, float(len(labels))], dtype=torch.float64)
        device = next(network.parameters()).device
        training = network.training
        network.eval()
        try:
            for start in range(0, len(labels), SCORED_AT_ONCE):
                part = slice(start, start + SCORED_AT_ONCE)
                classes, _ = network(self._standardised(images[part].to(device)))
                sums[0] += int((classes.argmax(1) == labels[part].to(device)).sum())
        finally:
            network.train(training)
        return sums

    def scores(self, sums: Tensor, split: str = "test") -> dict[str, float]:
        """`accuracy` in percent; empty for an empty split."""
        correct, count = sums.tolist()
        return {"accuracy": 100 * correct / count} if count else {}

    def selected(self, scores: Mapping[str, float]) -> float:
        """The mean of the scores."""
        return sum(scores.values()) / len(scores)

    def _standardised(self, images: Tensor) -> Tensor:
        mean, deviation = (values.to(images.device)[:, None, None] for values in (self.mean, self.deviation))
        return (images.float() - mean) / deviation


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, h, w) uint8 -> mean and standard deviation of each channel, (3,) float32 each, of values 0 to 255."""
    values = torch.arange(256, dtype=torch.float64)
    # Counting the 256 values is exact and needs no floating-point copy of all images.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    deviation = (shares * (values - mean[:, None]).square()).sum(1).sqrt()
    return mean.float(), deviation.clamp(min=1).float()  # a channel of one value alone stays near zero


class Chances(NamedTuple):
    """What is random about B samples."""

    partners: Tensor
    """(B,) int64, the training images to mix in."""
    shares: Tensor
    """(B,) float32, the lambda of mixup."""
    quarters: Tensor
    """(B,) int64, quarter turns."""
    crops: Tensor
    """(3, 2B) int64: first row, first column, whether mirrored; of the samples, then of their partners."""


def draw_chances(numbers: Sequence[int], draw: int, images: int, alpha: float) -> Chances:
    """Each row is a function of `draw` and the sample's own number alone, so no batch mate or worker changes it."""
    offsets = 2 * PADDING + 1
    below = np.array([images, ROTATIONS, *[offsets, offsets, 2] * 2])
    uniform, shares = np.empty((len(numbers), len(below))), np.empty(len(numbers), np.float32)
    for row, number in enumerate(numbers):
        random = np.random.default_rng(np.random.SeedSequence(draw, spawn_key=(number,)))
        uniform[row], shares[row] = random.random(len(below)), random.beta(alpha, alpha)
    columns = torch.from_numpy((uniform * below).astype(np.int64)).T
    return Chances(columns[0], torch.from_numpy(shares), columns[1], torch.cat([columns[2:5], columns[5:8]], dim=1))


def crop_and_mirror(images: Tensor, crops: Tensor) -> Tensor:
    """(n, 3, h, w) -> the same shape: padded by 4 zeros on each side, then cut at `crops` (see `Chances`)."""
    count, channels, height, width = images.shape
    top, left, mirrored = crops[:, :, None]
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = top + rows
    columns = left + torch.where(mirrored.bool(), width - 1 - columns, columns)
    number = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return F.pad(images, [PADDING] * 4)[number, channel, rows[:, None, :, None], columns[:, None, None, :]]


def turn(images: Tensor, quarters: Tensor) -> Tensor:
    """(n, c, h, h) images, each turned counterclockwise by its number (n,) of quarter turns."""
    # All four and then a choice: picking out the images of each turn would make a GPU wait for the host.
    turned = torch.stack([torch.rot90(images, quarter, (2, 3)) for quarter in range(ROTATIONS)])
    return turned[quarters, torch.arange(len(images), device=images.device)]
