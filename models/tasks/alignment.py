"""The alignment task: YMS-like movies -> one named loss -> video accuracy and text IoU (NeuMATCH)."""

from collections.abc import Callable, Mapping, Sequence
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

    names = ("actions",)
    primary = "actions"
    whole_batch = False

    def __init__(
        self,
        config: NeuMATCHConfig,
        preprocessors: Preprocessors,
        longest: int,
        smoothing: float,
        decoding: DecodingConfig | None = None,
    ) -> None:
        """`longest`: actions of a sample; `smoothing`: of labels; `decoding`: for scores (default: greedy)."""
        self.config, self.preprocessors = config, preprocessors
        self.longest, self.smoothing, self.decoding = longest, smoothing, decoding or DecodingConfig()
        self.samples: list[Sample] = []
        self.examples: Mapping[str, Sequence[Example]] = {}
        self.widths = tuple(len(p.mean) for p in (preprocessors.video, preprocessors.text))

    def network(self) -> NeuMATCH:
        """A freshly initialised network of the right input widths."""
        return NeuMATCH(self.config, *self.widths)

    def __len__(self) -> int:
        return len(self.samples)

    def prepare(self, examples: Mapping[str, Sequence[Example]]) -> None:
        """Takes the movies of each split, and cuts those to train on into samples."""
        self.examples = examples
        self.samples = [
            sample
            for example in examples["train"]
            for sample in training_samples(self.preprocessors.apply(example), self.longest, self.config.actions)
        ]

    def batch(self, indices: Sequence[int], device: torch.device, draw: int = 0) -> Batch:
        """The samples at `indices` (possibly none) on `device`; lengths stay on the CPU. Nothing in it is random."""
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

    def losses(
        self, network: Callable[[Batch], Any], batch: Batch, names: Sequence[str]
    ) -> tuple[dict[str, Tensor], Encoded]:
        """The loss `actions`, summed over this batch's actions, and the stacks' outputs without gradient."""
        logits, gold, encoded = network(batch)
        # Detached: whoever keeps them for a figure must not keep the whole graph alive through the next step.
        seen = replace(encoded, video=encoded.video.detach(), text=encoded.text.detach())
        return {"actions": smoothed_cross_entropy(logits, gold, self.smoothing)}, seen

    def figures(self, seen: Encoded) -> dict[str, float | list[float]]:
        """The stacks' statistics (WACV 2021, Figure 5)."""
        return dict(stack_statistics(seen))

    def component(self, parameter: str) -> str:
        """The component of WACV 2021's Table 3 that a parameter belongs to."""
        return NeuMATCH.component_of(parameter)

    def score_sums(self, network: NeuMATCH, split: str, rank: int = 0, workers: int = 1) -> Tensor:
        """(3,) float64: summed video accuracy and text IoU (percent) and the number of movies of this share."""
        examples = self.examples[split][rank::workers]
        prepared = [self.preprocessors.apply(example) for example in examples]
        sums = torch.zeros(3, dtype=torch.float64)
        for example, alignment in zip(examples, align(network, prepared, self.decoding), strict=True):
            movie = example.movie
            sums += torch.tensor([video_accuracy(movie, alignment), text_iou(movie, alignment), 1.0])
        return sums

    def scores(self, sums: Tensor, split: str = "test") -> dict[str, float]:
        """`video_accuracy` and `text_iou` in percent; empty for an empty split."""
        accuracy, iou, movies = sums.tolist()
        return {"video_accuracy": accuracy / movies, "text_iou": iou / movies} if movies else {}

    def selected(self, scores: Mapping[str, float]) -> float:
        """The mean of the scores."""
        return sum(scores.values()) / len(scores)


def stack_statistics(encoded: Encoded, dimensions: int = 50) -> dict[str, list[float]]:
    """Mean and variance over elements of the stacks' first output dimensions (WACV 2021, Figure 5)."""
    figures = {}
    for name, rows in (("video", encoded.video), ("text", encoded.text)):
        if len(rows) > 1:
            variance, mean = torch.var_mean(rows[:, :dimensions].detach().float(), dim=0)
            figures[f"stack/{name}_mean"], figures[f"stack/{name}_variance"] = mean.tolist(), variance.tolist()
    return figures
