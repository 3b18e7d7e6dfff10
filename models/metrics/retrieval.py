"""Text-to-video retrieval: R@k, MedR and MeanR, with ties counted fairly (MELTR, Tables 1 to 3)."""

import numpy as np
import torch
from torch import Tensor


def ranks(scores: Tensor, gold: Tensor) -> Tensor:
    """Where each text finds its video: (n, 2) int64, the videos scored above it and the OTHER videos scored the same.

    Args:
        scores: (n, m) floating point, of n texts with all m videos. The texts may be any block of the test set, none
            included: the rows of all blocks, put together, are the ranks of the set.
        gold: (n,) int64, the column of each text's own video; texts may share one.

    Two counts and not one rank, because a rank would have to place the gold video among its ties: first would make a
    model that scores everything the same look perfect.

    Raises:
        ValueError: shapes that do not fit, a gold column that is not there, or a NaN (text and video are named).
    """
    if scores.ndim != 2 or gold.shape != scores.shape[:1]:
        raise ValueError(f"needs scores (texts, videos) and gold (texts,), not {(*scores.shape,)} and {(*gold.shape,)}")
    videos = scores.shape[1]
    strangers = torch.nonzero((gold < 0) | (gold >= videos)).flatten().tolist()
    if strangers:
        raise ValueError(f"text {strangers[0]}: video {int(gold[strangers[0]])} is not one of the {videos} scored")
    undefined = torch.nonzero(scores.isnan())
    if len(undefined):
        text, video = undefined[0].tolist()
        raise ValueError(f"the score of text {text} and video {video} is NaN ({len(undefined)} scores are)")
    own = scores.gather(1, gold[:, None])
    return torch.stack([(scores > own).sum(1), (scores == own).sum(1) - 1], dim=1)


def retrieval_scores(ranks: Tensor) -> dict[str, float]:
    """`R@1`, `R@5`, `R@10` in percent, `MedR` and `MeanR` (from 1) of what `ranks` gives; empty for no texts.

    Ties count as their average over all orders: a text's rank is better + 1 + tied / 2, and its share in R@k the
    part of its tied + 1 places that lies within the first k. MedR is the median of those ranks, the mean of the middle
    two if their number is even. A model that scores everything the same so comes out at chance.
    """
    if not len(ranks):
        return {}
    better, tied = ranks.double().cpu().unbind(1)
    within = {f"R@{k}": 100 * ((k - better) / (tied + 1)).clamp(0, 1).mean().item() for k in (1, 5, 10)}
    expected = better + 1 + tied / 2
    return {**within, "MedR": float(np.median(expected.numpy())), "MeanR": expected.mean().item()}
