"""Retrieval, question answering and recognition from pixels, with any video-language backbone.

Shape legend: n samples, T frames of s x s pixels, O texts a sample, X tokens a text, C answers or classes.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.backbones.video_language import Setting, VideoLanguageBatch, VideoLanguageConfig, VideoLanguageNetwork
from models.config import StrictConfig
from models.data.asked import Asked
from models.data.pixels.augmentation import AugmentationConfig
from models.data.pixels.reader import Arrays, PixelReader, PixelShape, WordsConfig
from models.data.pixels.sources import FrameSource
from models.data.pixels.visual_tokens import VisualTokenizer, VisualTokensConfig, fit_or_load
from models.data.tokens import Tokenizer
from models.errors import UserError
from models.metrics.answering import answer_scores, majority
from models.metrics.retrieval import ranks, retrieval_scores


class PixelInputConfig(StrictConfig):
    """How videos and texts become a network's inputs."""

    words: WordsConfig = WordsConfig()
    sample: Literal["item", "video"] = "item"
    """What an epoch goes over: every caption or question with its video, or every video with one of its at random."""
    augmentation: AugmentationConfig = AugmentationConfig()
    visual_tokens: VisualTokensConfig = VisualTokensConfig()
    scored_at_once: int = Field(default=16, ge=1)
    """Videos that go through the network at a time when it is scored."""


class VideoLanguageTask:
    """Videos and texts -> the named losses of a backbone -> R@K, accuracy."""

    whole_batch = True

    def __init__(
        self,
        model: VideoLanguageConfig,
        inputs: PixelInputConfig,
        asked: Asked,
        source: FrameSource,
        fitted: Path,
        seed: int,
    ) -> None:
        """`fitted`: the file of what is fitted to training frames once, a codebook of visual tokens; read if it is
        there, else written.

        Raises:
            UserError: the training split is empty, something does not fit the network, or frames cannot be read.
        """
        self.model, self.inputs, self.asked, self.kind = model, inputs, asked, asked.kind
        if not asked.splits["train"].items:
            raise UserError("the training split is empty: there is nothing to train on")
        if model.image_size % model.cell:
            raise UserError(
                f"model.image_size={model.image_size} must be a multiple of {model.cell}, the side of a cell"
            )
        tokenizer = Tokenizer(inputs.words.tokenizer)
        shape = PixelShape(model.frames, model.image_size, model.image_size // model.cell)
        self.scored = {
            name: PixelReader(split, source, shape, tokenizer, inputs.words, inputs.augmentation)
            for name, split in asked.splits.items()
        }
        self.read = self.scored["train"].varied(by_video=inputs.sample == "video")
        self._tokenizer = partial(fit_or_load, inputs.visual_tokens, self._frames(seed), shape.cells, seed, fitted)
        fits = inputs.visual_tokens.name == "kmeans"  # as many as are asked for; what can be wrong is checked before
        codes = inputs.visual_tokens.codes if fits else getattr(self.visual_tokens, "codes", 0)
        self.names = model.losses(asked.kind, codes)
        self.primary = self.names[0]
        self.setting = Setting(
            asked.kind,
            tokenizer.vocabulary,
            inputs.words.most,
            (tokenizer.cls, tokenizer.sep, tokenizer.mask),
            asked.classes,
            table_of_classes(tokenizer, asked.classes, inputs.words.most),
            codes,
            tokenizer.shift,
            tokenizer.padding,
        )

    def __len__(self) -> int:
        return len(self.read)

    @cached_property
    def visual_tokens(self) -> VisualTokenizer | None:
        """Read when it is first asked for, or fitted, which takes its time.

        Raises:
            UserError: as `fit_or_load` does.
        """
        return self._tokenizer()

    def fit(self) -> None:
        """Fits what is fitted once, and writes it; nothing where that is there already."""
        _ = self.visual_tokens

    def _frames(self, seed: int) -> Iterator[NDArray[np.uint8]]:
        """Those of training videos, in a random order."""
        reader = self.scored["train"]
        for video in np.random.default_rng(seed).permutation(len(reader.split.videos)):
            yield reader.video(int(video))

    def network(self) -> VideoLanguageNetwork:
        """A freshly initialised network, from the weights that the configuration names."""
        network = self.model.network(self.setting)
        self._component_of = network.component_of
        return network

    def drop_start(self) -> None:
        """From now on networks begin from random weights: theirs come from a checkpoint."""
        self.model = self.model.without_start()

    def check_network(self) -> None:
        """Whether there can be such a network, without its weights.

        Raises:
            UserError: sizes do not fit the data, or a checkpoint does not fit them.
        """
        scoring = ("encode_videos", "encode_texts", "similarity") if self.kind == "retrieval" else ("answer",)
        with torch.device("meta"), warnings.catch_warnings(action="ignore", category=UserWarning):  # nothing is copied
            network = type(self.network())
        if missing := [name for name in scoring if getattr(network, name) is getattr(VideoLanguageNetwork, name)]:
            raise UserError(
                f"model.name={self.model.name}: {network.__name__} has no {missing[0]}(), by which {self.kind} is "
                "scored; give it one, or ask for another task"
            )

    def pretrain(self, network: Any, seed: int, say: Callable[[str], None] | None = None) -> None:
        """Nothing: training is all there is."""

    def batch(self, indices: Sequence[int], device: torch.device, draw: int) -> VideoLanguageBatch:
        """The training samples at `indices` (possibly none) on `device`, as `draw` has them."""
        return self.loaded(self.read(indices, draw), device)

    def loaded(self, arrays: Arrays, device: torch.device, tokens: bool = True) -> VideoLanguageBatch:
        """What `read` gave, on `device`; without the visual tokens where no loss will ask for `tokens`."""
        there = {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in arrays.items()}
        there["frames"] = _pixels(there["frames"])
        if self.visual_tokens is None or not tokens:
            there["cell_tokens"] = torch.full_like(there["hidden"], -1, dtype=torch.long)
        else:
            with torch.no_grad():
                there["cell_tokens"] = self.visual_tokens(there["frames"])
        return VideoLanguageBatch(**there)

    def weights(self, batch: VideoLanguageBatch) -> dict[str, float]:
        """Over how much of this batch each loss is summed."""
        return self.model.weights(batch, self.names)

    def losses(
        self, network: Callable[..., Any], batch: VideoLanguageBatch, names: Sequence[str]
    ) -> tuple[dict[str, Tensor], None]:
        """The losses `names`, each summed over this batch; nothing is kept for figures."""
        return network(batch, tuple(names)), None

    def figures(self, seen: None) -> dict[str, float | list[float]]:
        """None beside the losses."""
        return {}

    def component(self, parameter: str) -> str:
        """The part of the network that a parameter belongs to."""
        return self._component_of(parameter)

    @torch.no_grad()
    def score_sums(self, network: VideoLanguageNetwork, split: str, rank: int, workers: int) -> Tensor:
        """This worker's share of the similarities (texts * videos,), or of the places of the right answers among all,
        counted from 1 (items,); zeros elsewhere.

        All of a split is scored, in evaluation mode and without gradient.

        Raises:
            UserError: the network scores something as NaN, or a video cannot be read.
        """
        training = network.training
        network.eval()
        try:
            score = self._similarities if self.kind == "retrieval" else self._places
            return score(network, split, rank, workers)
        finally:
            network.train(training)

    def _similarities(self, network: VideoLanguageNetwork, name: str, rank: int, workers: int) -> Tensor:
        """Every worker encodes its share of the videos and compares it with all texts."""
        reader, device = self.scored[name], _device(network)
        found = torch.zeros(len(reader.ids), len(reader.split.videos), dtype=torch.float64)
        texts = torch.arange(len(reader.ids)).split(self.inputs.scored_at_once)
        encoded = [network.encode_texts(reader.texts(part)[:, 0].to(device)) for part in texts]
        for part in self._share(torch.arange(len(reader.split.videos)), rank, workers):
            frames = torch.stack([torch.from_numpy(reader.video(video)) for video in part.tolist()])
            videos = network.encode_videos(_pixels(frames.to(device)), part.to(device))
            for rows, text in zip(texts, encoded, strict=True):
                scores = network.similarity(text, videos).double().cpu()
                _check_defined(scores.T, [reader.split.videos[video] for video in part.tolist()], name)
                found[rows[:, None], part] = scores
        return found.flatten()

    def _places(self, network: VideoLanguageNetwork, name: str, rank: int, workers: int) -> Tensor:
        """Every worker answers its share of the items, in the order of their videos: few are read twice."""
        reader, device = self.scored[name], _device(network)
        found = torch.zeros(len(reader.ids), dtype=torch.float64)
        for part in self._share(reader.video_of.argsort(stable=True), rank, workers):
            batch = self.loaded(reader(part.tolist(), 0), device, tokens=False)
            scores, answers = network.answer(batch).float().cpu(), batch.answers.cpu()
            _check_defined(scores, [reader.split.videos[video] for video in reader.video_of[part].tolist()], name)
            known = answers >= 0
            right = scores.gather(1, answers.clamp(min=0)[:, None])
            # Others of the same score count as better, so that equal scores everywhere are no success.
            place = (scores >= right).sum(1)
            found[part] = torch.where(known, place, scores.shape[1] + 1).double()
        return found

    def _share(self, numbers: Tensor, rank: int, workers: int) -> list[Tensor]:
        """A worker's share of them, neighbours, in parts that go through the network at once."""
        own = numbers.tensor_split(workers)[rank]
        return list(own.split(self.inputs.scored_at_once)) if len(own) else []

    def scores(self, sums: Tensor, split: str) -> dict[str, float]:
        """R@1, R@5, R@10 (percent), MedR and MeanR; or what `answer_scores` gives. Empty for an empty split."""
        chosen = self.asked.splits[split]
        if not chosen.items:
            return {}
        if self.kind == "retrieval":
            similarities = sums.view(len(chosen.items), len(chosen.videos))
            gold = torch.tensor([item.video for item in chosen.items])
            return retrieval_scores(ranks(similarities.float(), gold))
        return answer_scores(sums.round().long(), chosen.items, self.kind)

    def plain(self, split: str) -> dict[str, dict[str, float]]:
        """What needs no network scores on a split, by its name: the most frequent training answer, or chance."""
        items = self.asked.splits[split].items
        if self.kind == "retrieval":
            videos = len(self.asked.splits[split].videos)
            equal = torch.zeros(len(items), videos)
            return {"chance": retrieval_scores(ranks(equal, torch.tensor([item.video for item in items])))}
        if self.kind == "multiple_choice":
            return {"chance": {"accuracy": 100 / self.scored[split].options}}
        return {"most frequent answer": {"accuracy": majority(self.asked.splits["train"].items, items)}}

    def selected(self, scores: Mapping[str, float]) -> float:
        """The mean of R@1, R@5 and R@10; or the accuracy."""
        chosen = ("R@1", "R@5", "R@10") if self.kind == "retrieval" else ("accuracy",)
        return sum(scores[name] for name in chosen) / len(chosen)


def table_of_classes(tokenizer: Tokenizer, classes: Sequence[str], most: int) -> tuple[tuple[int, ...], ...]:
    """The tokens of each name, without the special ones around it."""
    table = tokenizer.table(list(classes), most)
    return tuple(
        tuple(row[1 : length - 1]) for row, length in zip(table.ids.tolist(), table.lengths.tolist(), strict=True)
    )


def _check_defined(scores: Tensor, videos: Sequence[str], split: str) -> None:
    """(n, k), each row of one of the n videos."""
    undefined = scores.isnan().any(1).tolist()
    if any(undefined):
        raise UserError(
            f"{split}: the network's scores of video {videos[undefined.index(True)]!r} are NaN ({sum(undefined)} of "
            f"{len(videos)} scored with it); start from an earlier checkpoint, or train at a lower rate"
        )


def _pixels(frames: Tensor) -> Tensor:
    """Colours of 0 to 255 -> 0 to 1."""
    return frames.float() / 255


def _device(network: VideoLanguageNetwork) -> torch.device:
    return next(network.parameters()).device
