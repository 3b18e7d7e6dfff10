"""What the learned baselines share: the matched pairs they train on, the clip statistics, the movies held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.examples import Example
from models.errors import UserError
from models.neumatch.oracle import oracle_alignment


@dataclass(frozen=True, slots=True)
class Pairs:
    """P matched (clip, snippet) pairs of the gold alignment.

    Attributes:
        video: (P, d_video).
        text: (P, d_text).
        snippet: (P,) int64; equal where two clips belong to one snippet.
    """

    video: Tensor
    text: Tensor
    snippet: Tensor


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Per-dimension mean and deviation of clip features, `(d,)` each."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, video: Tensor) -> "Standardiser":
        """The statistics of `video`, (P, d)."""
        return cls(video.mean(0), video.std(0, correction=0).clamp_min(1e-6))

    def __call__(self, video: Tensor) -> Tensor:
        """(..., d) to zero mean and unit variance."""
        return (video - self.mean) / self.deviation


def matched_pairs(examples: Sequence[Example]) -> Pairs:
    """The matched pairs of the oracle's alignment.

    Raises:
        UserError: no clip of any movie is matched.
    """
    video, text, snippet = [], [], []
    first = 0
    for example in examples:
        links = [(i, j) for i, texts in enumerate(oracle_alignment(example.movie)) for j in texts]
        if links:
            clips, texts = torch.tensor(links, device=example.video.device).T
            video.append(example.video[clips])
            text.append(example.text[texts])
            snippet.append(first + texts)
        first += len(example.movie.snippets)
    if not video:
        raise UserError(f"baseline: none of the {len(examples)} training movies has a matched clip; train on others")
    return Pairs(torch.cat(video), torch.cat(text), torch.cat(snippet))


def hold_out(examples: Sequence[Example], every: int) -> tuple[list[Example], list[Example]]:
    """(training, held out): every `every`-th movie is held out. A single movie has to serve as both.

    Raises:
        UserError: there are no movies.
    """
    if not examples:
        raise UserError("baseline: there are no training movies; give at least one")
    held = list(examples[every - 1 :: every]) or [examples[-1]]
    kept = [example for example in examples if all(example is not other for other in held)]
    return kept or held, held
