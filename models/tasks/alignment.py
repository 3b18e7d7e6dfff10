"""The alignment task: YMS-like movies -> one named loss -> video accuracy and text IoU (NeuMATCH)."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from models.config import StrictConfig
from models.data.captioned import Captioned
from models.data.examples import Example
from models.neumatch.actions import play
from models.neumatch.contrastive import ContrastiveConfig, pretrain
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.metrics import text_iou, video_accuracy
from models.neumatch.network import Batch, Encoded, Histories, NeuMATCH, NeuMATCHConfig, smoothed_cross_entropy
from models.neumatch.own_decisions import OwnDecisions
from models.neumatch.pairs import PairTable, matched_pairs
from models.neumatch.recomposition import recompose, units_of
from models.neumatch.samples import Preprocessors, Sample, collate, training_samples


class LearningConfig(StrictConfig):
    """How NeuMATCH learns. The defaults are the paper's; the rest goes beyond it."""

    label_smoothing: float = Field(default=0.03, ge=0, lt=1)
    contrastive: ContrastiveConfig | None = None
    """Pre-training on pairs of clip and snippet, before the first step."""
    own_decisions: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps at which a sample follows the network's own choice, not the gold action."""
    recompose: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples that are put together anew out of the snippets of all training movies."""
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the feature dimensions of a sample that are zero, the same ones in all its elements."""


@dataclass(frozen=True)
class AlignmentBatch:
    """Sequences with their gold actions, and what the network needs to go astray on its own."""

    sequences: Batch
    own: OwnDecisions | None


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
        learning: LearningConfig,
        decoding: DecodingConfig | None = None,
        captions: Callable[[], Captioned | None] = lambda: None,
    ) -> None:
        """`longest`: actions of a sample; `decoding`: for scores (default: greedy); `captions`: reads what contrastive
        pre-training sees beside the movies."""
        self.config, self.preprocessors, self.captions = config, preprocessors, captions
        self.longest, self.learning, self.decoding = longest, learning, decoding or DecodingConfig()
        self.samples: list[Sample] = []
        self.units: list[Sample] = []
        self.examples: Mapping[str, Sequence[Example]] = {}
        self.widths = tuple(len(p.mean) for p in (preprocessors.video, preprocessors.text))

    def network(self) -> NeuMATCH:
        """A freshly initialised network of the right input widths."""
        return NeuMATCH(self.config, *self.widths)

    def drop_start(self) -> None:
        """Nothing: no configuration names weights."""

    def __len__(self) -> int:
        return len(self.samples)

    def prepare(self, examples: Mapping[str, Sequence[Example]]) -> None:
        """Takes the movies of each split, and cuts those to train on into samples."""
        self.examples = examples
        movies = [self.preprocessors.apply(example) for example in examples["train"]]
        actions = self.config.actions
        self.samples = [s for movie in movies for s in training_samples(movie, self.longest, actions)]
        if self.learning.recompose:
            whole = [s for movie in movies for s in training_samples(movie, sys.maxsize, actions)]
            self.units = [unit for sample in whole for unit in units_of(sample, actions)]

    def pretrain(self, network: NeuMATCH, seed: int, say: Callable[[str], None] | None = None) -> None:
        """Contrastive pre-training of a fresh network, where it is asked for; `say` is told how it goes.

        Raises:
            UserError: no training clip is matched with a snippet.
        """
        if self.learning.contrastive is None:
            return
        table = PairTable.of(matched_pairs([self.preprocessors.apply(example) for example in self.examples["train"]]))
        if (more := self.captions()) is not None:
            video, text = self.preprocessors.video(more.video), self.preprocessors.text(more.text)
            table += PairTable(video, text, more.rows, more.group)
        pretrain(network, table, self.learning.contrastive, seed, say)

    def batch(self, indices: Sequence[int], device: torch.device, draw: int = 0) -> AlignmentBatch:
        """The samples at `indices` (possibly none) on `device`; lengths stay on the CPU."""
        sources = [np.random.default_rng(np.random.SeedSequence(draw, spawn_key=(i,))) for i in indices]
        samples = [self._varied(self.samples[i], source) for i, source in zip(indices, sources, strict=True)]
        own = self._own(samples, sources, device) if self.learning.own_decisions else None
        return AlignmentBatch(collate(samples, *self.widths).to(device), own)

    def _varied(self, sample: Sample, source: np.random.Generator) -> Sample:
        learning = self.learning
        if learning.recompose and source.random() < learning.recompose:
            sample = recompose(self.units, len(sample.actions), source)
        if share := learning.feature_dropout:
            masks = [
                torch.from_numpy((source.random(width) >= share).astype(np.float32) / (1 - share))
                for width in self.widths
            ]
            sample = Sample(sample.video * masks[0], sample.text * masks[1], sample.actions)
        return sample

    def _own(
        self, samples: Sequence[Sample], sources: Sequence[np.random.Generator], device: torch.device
    ) -> OwnDecisions:
        clips = max((len(sample.video) for sample in samples), default=0)
        steps = clips + max((len(sample.text) for sample in samples), default=0)
        owner = torch.full((len(samples), clips), -1)
        own = torch.zeros(len(samples), steps, dtype=torch.bool)
        for row, sample in enumerate(samples):
            gold = play(sample.actions, len(sample.video), len(sample.text), self.config.actions)
            owner[row, : len(gold)] = torch.tensor([texts[0] if texts else -1 for texts in gold])
            length = len(sample.video) + len(sample.text)
            own[row, :length] = torch.from_numpy(sources[row].random(length) < self.learning.own_decisions)
        return OwnDecisions(owner.to(device), own.to(device))

    def weights(self, batch: AlignmentBatch) -> dict[str, float]:
        """How much each loss of this batch counts: its number of gold actions."""
        return {"actions": float(batch.sequences.action_lengths.sum())}

    def losses(
        self, network: Callable[..., Any], batch: AlignmentBatch, names: Sequence[str]
    ) -> tuple[dict[str, Tensor], Encoded]:
        """The loss `actions`, summed over this batch's actions, and the stacks' outputs without gradient.

        Where the network goes its own way, all steps of a sample together count as much as its gold actions.
        """
        taken: list[Tensor] = []

        def own_way(network: NeuMATCH, sequences: Batch, encoded: Encoded) -> Histories:
            histories = batch.own(network, sequences, encoded)  # type: ignore[misc]
            taken.append(histories.lengths)
            return histories

        logits, right, encoded = network(batch.sequences, *([own_way] if batch.own is not None else []))
        # Detached: whoever keeps them for a figure must not keep the whole graph alive through the next step.
        seen = replace(encoded, video=encoded.video.detach(), text=encoded.text.detach(), ahead=None)
        weights = None
        for lengths in taken:
            share = batch.sequences.action_lengths / lengths.clamp(min=1)
            weights = share.repeat_interleave(lengths).to(logits.device)
        return {"actions": smoothed_cross_entropy(logits, right, self.learning.label_smoothing, weights)}, seen

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
