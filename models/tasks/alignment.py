"""The alignment task: YMS-like movies -> one named loss -> video accuracy and text IoU (NeuMATCH)."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from models.data.examples import Example
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.metrics import text_iou, video_accuracy
from models.neumatch.network import Batch, Encoded, NeuMATCH, NeuMATCHConfig, smoothed_cross_entropy
from models.neumatch.samples import Preprocessors, Sample, collate, training_samples


class AlignmentTask:
    """Turns movies into batches, and the network's outputs into named losses.

    A loss is given as its sum over this worker's actions; dividing by the number of actions of the global batch
    (`weights`) makes it the mean that the paper trains on, however the batch is cut up.
    """

    primary = "actions"

    def __init__(self, config: NeuMATCHConfig, preprocessors: Preprocessors, longest: int, smoothing: float) -> None:
        self.config, self.preprocessors = config, preprocessors
        self.longest, self.smoothing = longest, smoothing
        self.samples: list[Sample] = []
        self.widths = tuple(len(p.mean) for p in (preprocessors.video, preprocessors.text))

    def network(self) -> NeuMATCH:
        """A freshly initialised network of the right input widths."""
        return NeuMATCH(self.config, *self.widths)

    def prepare(self, examples: Sequence[Example]) -> None:
        """Cuts the training movies into samples."""
        self.samples = [
            sample
            for example in examples
            for sample in training_samples(self.preprocessors.apply(example), self.longest, self.config.actions)
        ]

    def batch(self, indices: Sequence[int], device: torch.device) -> Batch:
        """The samples at `indices` (possibly none) on `device`; lengths stay on the CPU."""
        batch = collate([self.samples[i] for i in indices], *self.widths)
        moved = {
            field.name: getattr(batch, field.name).to(device, non_blocking=True)
            for field in fields(batch)
            if not field.name.endswith("lengths")
        }
        return replace(batch, **moved)

    def weights(self, batch: Batch) -> dict[str, float]:
        """How much each loss of this batch counts: its number of actions."""
        return {"actions": float(batch.action_lengths.sum())}

    def losses(self, network: Callable[[Batch], Any], batch: Batch) -> tuple[dict[str, Tensor], Encoded]:
        """The named losses, each summed over this batch's actions, and the stacks' outputs without gradient."""
        logits, gold, encoded = network(batch)
        # Detached: whoever keeps them for a figure must not keep the whole graph alive through the next step.
        seen = replace(encoded, video=encoded.video.detach(), text=encoded.text.detach())
        return {"actions": smoothed_cross_entropy(logits, gold, self.smoothing)}, seen

    def score_sums(self, network: NeuMATCH, examples: Sequence[Example], decoding: DecodingConfig) -> Tensor:
        """(3,) float64: summed video accuracy and text IoU (percent) and the number of movies."""
        prepared = [self.preprocessors.apply(example) for example in examples]
        sums = torch.zeros(3, dtype=torch.float64)
        for example, alignment in zip(examples, align(network, prepared, decoding), strict=True):
            movie = example.movie
            sums += torch.tensor([video_accuracy(movie, alignment), text_iou(movie, alignment), 1.0])
        return sums


def stack_statistics(encoded: Encoded, dimensions: int = 50) -> dict[str, list[float]]:
    """Mean and variance over elements of the stacks' first output dimensions (WACV 2021, Figure 5)."""
    figures = {}
    for name, rows in (("video", encoded.video), ("text", encoded.text)):
        if len(rows) > 1:
            variance, mean = torch.var_mean(rows[:, :dimensions].detach().float(), dim=0)
            figures[f"stack/{name}_mean"], figures[f"stack/{name}_variance"] = mean.tolist(), variance.tolist()
    return figures
