"""From movies with features to training samples and padded batches in stack order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.data.examples import Example
from models.data.files import atomic_path
from models.errors import UserError
from models.neumatch.actions import Action, cut, gold_actions
from models.neumatch.network import Batch
from models.neumatch.oracle import oracle_alignment
from models.neumatch.projection import Preprocessing


@dataclass(frozen=True, slots=True)
class Sample:
    """A stretch of a movie. `video` (n, d), `text` (m, d): preprocessed, in time order; `actions`: gold ids."""

    video: Tensor
    text: Tensor
    actions: tuple[int, ...]


@dataclass(frozen=True)
class Preprocessors:
    """What was fitted on the training split and travels with the model."""

    video: Preprocessing
    text: Preprocessing

    @classmethod
    def fit(cls, examples: Sequence[Example], target: int | None, seed: int) -> "Preprocessors":
        """Fits both modalities; `target` is RP's width, None for the Full variant (spec section 3)."""
        video = torch.cat([example.video for example in examples])
        text = torch.cat([example.text for example in examples])
        return cls(Preprocessing.fit(video, target, seed), Preprocessing.fit(text, target, seed + 1))

    def state(self) -> dict[str, Tensor]:
        """Named tensors to save with the model."""
        return {**self.video.state("video"), **self.text.state("text")}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> "Preprocessors":
        """The inverse of `state`."""
        return cls(Preprocessing.from_state(state, "video"), Preprocessing.from_state(state, "text"))

    def to_file(self, path: Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.state().items()}, temporary)

    @classmethod
    def from_file(cls, path: Path) -> "Preprocessors":
        """Reads what `to_file` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return cls.from_state(load_file(path))
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path}: cannot be read as the preprocessing of a run: {error}") from error

    def apply(self, example: Example) -> Example:
        """The same movie with preprocessed features."""
        return Example(example.movie, self.video(example.video), self.text(example.text))


def training_samples(example: Example, longest: int, actions: Sequence[Action]) -> list[Sample]:
    """Cuts a preprocessed movie's oracle actions into samples of at most `longest` actions."""
    try:
        gold = gold_actions(oracle_alignment(example.movie), len(example.movie.snippets), actions)
    except ValueError as error:
        allowed = ", ".join(actions)
        raise UserError(f"movie {example.movie.id}: {error}; model.actions has {allowed}") from error
    return [
        Sample(example.video[slice(*piece.clips)], example.text[slice(*piece.snippets)], piece.actions)
        for piece in cut(gold, longest, actions)
    ]


def collate(samples: Sequence[Sample], video_width: int, text_width: int) -> Batch:
    """Pads samples (possibly none) into one batch; sequences are reversed into stack order."""

    def padded(sequences: list[Tensor], width: int) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(s) for s in sequences], dtype=torch.int64)
        rows = torch.zeros(len(sequences), int(lengths.max()) if len(sequences) else 0, width)
        for row, sequence in zip(rows, sequences, strict=True):
            row[: len(sequence)] = sequence.flip(0)
        return rows, lengths

    video, video_lengths = padded([sample.video for sample in samples], video_width)
    text, text_lengths = padded([sample.text for sample in samples], text_width)
    action_lengths = torch.tensor([len(sample.actions) for sample in samples], dtype=torch.int64)
    actions = torch.zeros(len(samples), int(action_lengths.max()) if len(samples) else 0, dtype=torch.int64)
    for row, sample in zip(actions, samples, strict=True):
        row[: len(sample.actions)] = torch.tensor(sample.actions)
    return Batch(video, text, video_lengths, text_lengths, actions, action_lengths)
