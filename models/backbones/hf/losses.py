"""Losses of pairs of videos and texts from their logits; sums over this worker's samples, negatives of all workers.

Shape legend: n samples of this worker, N of all, T views of a video (its frames, or the one whole).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbones.univl.losses import wide
from models.collectives import Collectives


def contrastive(logits: Tensor, known: Tensor, collectives: Collectives) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): the mean of both ways, and over the views.

    Args:
        logits: (n, T, N) of this worker's videos with the texts of all workers.
        known: (n,) bool, which samples' own texts are right; the others serve as negatives alone.
    """
    logits = wide(logits)
    all_logits, start = collectives.gather(logits)
    own = torch.arange(start, start + len(logits), device=logits.device)
    to_texts = logits.log_softmax(-1)[own - start, :, own]
    to_videos = all_logits.log_softmax(0)[own, :, own]
    return -((to_texts + to_videos) / 2).mean(1)[known].sum()


def sigmoid(logits: Tensor, known: Tensor, collectives: Collectives) -> Tensor:
    """Every pair is told from every other by itself (Zhai et al., ICCV 2023, equation 1); arguments as above."""
    logits = wide(logits)
    _, start = collectives.gather(known.long())
    own = torch.arange(start, start + len(logits), device=logits.device)
    signs = -torch.ones_like(logits)
    signs[own - start, :, own] = 1
    return -F.logsigmoid(signs * logits).mean(1).sum(-1)[known].sum()
