"""Losses of All-in-one as functions of what its transformer gives; each is the sum over this worker's samples.

Shape legend: n samples, X words, l image tokens, H hidden, k texts beside a sample's own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbones.univl.losses import contrastive_loss, wide
from models.collectives import Collectives

NORM_FLOOR = 1e-8
TRANSPORT_SHARE = 0.1
"""What the word-patch alignment counts beside other losses."""
_TRANSPORT_NORM_FLOOR = 1e-5
_BETA, _ROUNDS = 0.5, 50
_ABSENT = 1e4


def unit(x: Tensor) -> Tensor:
    """(n, H) of length 1."""
    return F.normalize(x, dim=-1, eps=NORM_FLOOR)


def retrieval_loss(texts: Tensor, videos: Tensor, temperature: float, collectives: Collectives) -> Tensor:
    """(n, H) each: InfoNCE with all workers' pairs, the sum of both ways as in the official code."""
    return 2 * contrastive_loss(unit(wide(texts)), unit(wide(videos)), temperature, collectives)


def pair_loss(scores: Tensor, match: Tensor) -> Tensor:
    """(n, 2) scores of no and yes, (n,) bool of what is true."""
    return F.cross_entropy(wide(scores), match.long(), reduction="sum")


def transport_loss(words: Tensor, seen: Tensor, patches: Tensor, match: Tensor) -> Tensor:
    """Word-patch alignment (Kim et al., ICML 2021, ViLT): matched pairs shall be near each other, others far.

    Args:
        words: (n, X, H).
        seen: (n, X) bool; the first and last of a text's tokens, [CLS] and [SEP], take no part.
        patches: (n, l, H); the first, [CLS], takes no part.
        match: (n,) bool.
    """
    inner = seen & seen.roll(-1, 1)  # whether another token follows; the very last one has none
    inner[:, :1], inner[:, -1:] = False, False
    real = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
    real[:, :1] = False
    distances = transport_distances(words, inner, patches, real)
    return TRANSPORT_SHARE * torch.where(match, distances, -distances).sum()


def transport_distances(words: Tensor, words_count: Tensor, patches: Tensor, patches_count: Tensor) -> Tensor:
    """(n, X, H) and (n, l, H), each with its bool mask -> (n,): sum_xy c_xy T_yx for the cosine distance c and the
    transport plan T, through which no gradient flows. In float32 at least."""
    units = (F.normalize(wide(x), dim=-1, eps=_TRANSPORT_NORM_FLOOR) for x in (words, patches))
    cost = 1 - torch.matmul(next(units), next(units).transpose(1, 2))
    pairs = words_count[:, :, None] & patches_count[:, None]
    cost = torch.where(pairs, cost, 0.0)
    plans = transport_plans(cost.detach(), words_count, patches_count)
    return (cost * plans.transpose(1, 2)).sum((1, 2))


@torch.no_grad()
def transport_plans(cost: Tensor, words: Tensor, patches: Tensor) -> Tensor:
    """(n, X, l), 0 where a word or a patch does not count, and (n, X), (n, l) bool which do -> (n, l, X): the inexact
    proximal point method for optimal transport (Xie et al., UAI 2020, IPOT), one inner step."""
    patches = patches & words.any(1, keepdim=True)  # without words nothing is to be moved
    pairs = patches[:, :, None] & words[:, None]
    kernel = torch.where(pairs, torch.exp(-cost.transpose(1, 2) / _BETA), 0.0)
    count_words, count_patches = (m.sum(1, keepdim=True).to(cost) for m in (words, patches))
    absent_words, absent_patches = (_ABSENT * (~m).to(cost) for m in (words, patches))
    sigma = words.to(cost) / count_words.clamp(min=1)
    plan = pairs.to(cost)
    for _ in range(_ROUNDS):
        plan = kernel * plan
        delta = 1 / (count_patches * torch.einsum("nyx,nx->ny", plan, sigma) + absent_patches)
        sigma = 1 / (count_words * torch.einsum("nyx,ny->nx", plan, delta) + absent_words)
        plan = delta[:, :, None] * plan * sigma[:, None]
    return plan


def ranking_loss(scores: Tensor, exist: Tensor) -> Tensor:
    """(n, 1 + k) scores of a video's own text and of others', of which (n, k) bool says whether they exist."""
    scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(~exist, -torch.inf)], 1)
    return F.cross_entropy(wide(scores), torch.zeros_like(scores[:, 0], dtype=torch.long), reduction="sum")
