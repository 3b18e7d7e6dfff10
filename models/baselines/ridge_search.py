"""Text-to-video retrieval by ridge regression from a video's mean frame to sentence embeddings: seconds to fit.

Shape legend: n videos, F frames, D width of a frame's feature, k texts, d width of a sentence embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.baselines.held_out import Standardiser
from models.data.videos import Caption, Frames, VideoTextSplit
from models.metrics.retrieval import ranks, retrieval_scores

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""In units of the mean variance of a feature times the number of videos."""
CAPTIONS = 5
"""Of a training video are used at most; more change little and take minutes to embed."""
HELD_OUT = 5
"""Every so-manieth training video chooses the strength."""


def captions_used(split: VideoTextSplit) -> list[Caption]:
    """The first captions of each video."""
    counts, chosen = [0] * len(split), []
    for caption in split.captions:
        counts[caption.video] += 1
        if counts[caption.video] <= CAPTIONS:
            chosen.append(caption)
    return chosen


class RidgeSearch:
    """A video is found by the embedding that its mean frame predicts."""

    def __init__(self, frames: Frames, captions: Sequence[Caption], embeddings: Tensor) -> None:
        """Fits to n videos; `embeddings` (k, d) are the captions'.

        The strength goes by R@1, R@5 and R@10 on held-out videos.
        """
        video = _mean_frames(frames)
        of = torch.tensor([caption.video for caption in captions])
        target = torch.zeros(len(video), embeddings.shape[1]).index_add_(0, of, embeddings)
        target /= torch.bincount(of, minlength=len(video)).clamp(min=1)[:, None]
        held = torch.arange(len(video)) % HELD_OUT == 0
        first = [int((of == number).nonzero()[0, 0]) for number in held.nonzero()[:, 0].tolist()]
        best = -1.0
        for strength in STRENGTHS:
            self._fit(video[~held], target[~held], strength)
            found = self._scores(embeddings[first], video[held])
            scores = retrieval_scores(ranks(found, torch.arange(len(first))))
            figure = scores["R@1"] + scores["R@5"] + scores["R@10"]
            if figure > best:
                best, self.strength = figure, strength
        self._fit(video, target, self.strength)

    def _fit(self, video: Tensor, target: Tensor, strength: float) -> None:
        self.standardise, self.centre = Standardiser.of(video), target.mean(0)
        x = self.standardise(video).double()
        gram = x.T @ x
        unit = gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        right = x.T @ (target - self.centre).double()
        self.weight = torch.cholesky_solve(right, torch.linalg.cholesky(gram + strength * unit)).float()

    def _scores(self, embeddings: Tensor, video: Tensor) -> Tensor:
        """(k, n) cosines around the mean embedding, which all sentences share."""
        predicted = F.normalize(self.standardise(video) @ self.weight, dim=1)
        return F.normalize(embeddings - self.centre, dim=1) @ predicted.T

    def scores(self, embeddings: Tensor, frames: Frames) -> Tensor:
        """Embeddings of k texts (k, d), and n videos -> (k, n)."""
        return self._scores(embeddings, _mean_frames(frames))


def _mean_frames(frames: Frames) -> Tensor:
    """(n, D) float32."""
    mask = frames.mask[..., None].float()
    return (frames.features.float() * mask).sum(1) / mask.sum(1)
