"""Ridge regression from clip features to sentence embeddings, decoded by monotone dynamic programming."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from models.baselines.dynamic_programming import align_monotone, choose_unmatched
from models.baselines.held_out import Standardiser, hold_out
from models.config import StrictConfig
from models.data.examples import Example
from models.data.movie import Alignment
from models.neumatch.pairs import matched_pairs


class RidgeConfig(StrictConfig):
    """What `fit` chooses from on held-out training movies.

    Attributes:
        strengths: penalties, in units of the mean variance of a feature over the pairs times their number, so that
            they suit any amount of data.
        unmatched: scores of an unmatched clip, as cosines.
        hold_out_every: every so-manieth training movie is held out for the choice.
    """

    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.5, 1.0)
    unmatched: Annotated[tuple[float, ...], Field(min_length=1)] = tuple(i / 40 for i in range(-8, 13))
    hold_out_every: Annotated[int, Field(ge=2)] = 5


class Ridge:
    """Strength and unmatched score are chosen on held-out training movies, then the regression is fitted on all."""

    def __init__(self, config: RidgeConfig | None = None) -> None:
        self.config = config or RidgeConfig()

    def fit(self, examples: Sequence[Example]) -> None:
        """Closed form; the two settings go by the mean of video accuracy and text IoU on the held-out movies.

        Raises:
            UserError: no movies, or none with a matched clip.
        """
        kept, held = hold_out(examples, self.config.hold_out_every)
        movies = [example.movie for example in held]
        best = -1.0
        for strength, regression in zip(self.config.strengths, _fit(kept, self.config.strengths), strict=True):
            similarities = [regression.similarity(example) for example in held]
            unmatched, figures = choose_unmatched(movies, similarities, self.config.unmatched)
            if figures.mean > best:
                best, self.strength, self.unmatched = figures.mean, strength, unmatched
        (self.regression,) = _fit(examples, [self.strength])

    def align(self, example: Example) -> Alignment:
        """Needs `fit` first."""
        return align_monotone(self.regression.similarity(example), self.unmatched)


@dataclass(frozen=True, slots=True)
class _Regression:
    """Standardised clip features (N, d_video) times `weight` (d_video, d_text) are embeddings less their `centre`."""

    standardise: Standardiser
    weight: Tensor
    centre: Tensor

    def similarity(self, example: Example) -> Tensor:
        """(N, M) cosines of predicted and given embeddings, both around the training pairs' mean embedding.

        Without the centre every cosine carries what all sentences share, and the ranking drowns in it.
        """
        predicted = self.standardise(example.video) @ self.weight
        return F.normalize(predicted, dim=1) @ F.normalize(example.text - self.centre, dim=1).T


def _fit(examples: Sequence[Example], strengths: Sequence[float]) -> list[_Regression]:
    pairs = matched_pairs(examples)
    standardise = Standardiser.of(pairs.video)
    video = standardise(pairs.video).double()
    centre = pairs.text.mean(0)
    gram, target = video.T @ video, video.T @ (pairs.text - centre).double()
    unit = gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return [
        _Regression(standardise, torch.cholesky_solve(target, torch.linalg.cholesky(gram + s * unit)).float(), centre)
        for s in strengths
    ]
