"""The losses of ALPRO as functions of what its encoders give (CVPR 2022, sections 3.2 and 3.3), and their draws.

Each is the sum over this worker's rows; negatives are those of all workers. Logits are taken in float32 at least. What
is drawn for a sample is a function of its seed alone.

Shape legend: n samples of this worker, N of all, H hidden, M entities, g cells a side of a frame.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbones.univl.losses import wide

OTHER_DRAWS = 2**62
"""Added to a seed for the crop, which shall not follow from the negatives."""
AREA, ASPECT = (0.3, 0.5), (0.3, 1 / 0.3)
"""Of a crop: its share of the frame, and its height over its width (official code)."""


def clamped(temperature: Tensor) -> Tensor:
    """The learned temperature as it counts: within its bounds, where the gradient goes on as if there were none."""
    found = wide(temperature)
    return found + (found.clamp(0.001, 0.5) - found).detach()


def uniform(seeds: Tensor, count: int) -> Tensor:
    """(n,) -> (n, count) float64 from 0 to below 1, on the device of the seeds."""
    found = torch.zeros(len(seeds), count, dtype=torch.float64)
    source = torch.Generator()
    for row, seed in enumerate(seeds.tolist()):
        found[row] = torch.rand(count, generator=source.manual_seed(seed))
    return found.to(seeds.device)


def hard_negatives(scores: Tensor, own: Tensor, seeds: Tensor, draws: Tensor) -> Tensor:
    """For each row another one that it may be taken for, the likelier the higher the score.

    Args:
        scores: (n, N) logits.
        own: (n,), the column that belongs to a row and is never drawn, unless it is the only one.
        seeds: (N,), the seeds of the columns: draws go through them in the order of the seeds, so that they do not
            depend on which worker holds what.
        draws: (n,) from 0 to below 1.

    Returns:
        (n,) columns.
    """
    if scores.shape[1] < 2:
        return own
    order = seeds.argsort()
    likely = scores.double().scatter(1, own[:, None], -torch.inf).softmax(1)[:, order].cumsum(1)
    at = torch.searchsorted(likely, draws[:, None] * likely[:, -1:], right=True)
    return order[at[:, 0].clamp(max=len(order) - 1)]


def match_loss(own: Tensor, swapped: list[Tensor]) -> Tensor:
    """Logits (n, 2) of the samples' pairs, and of the same with another text or another video: the mean over a sample's
    pairs, of which only its own match."""
    pairs = [own, *swapped]
    labels = [torch.full((len(own),), int(pair is own), device=own.device) for pair in pairs]
    return F.cross_entropy(wide(torch.cat(pairs)), torch.cat(labels), reduction="sum") / len(pairs)


def crops(seeds: Tensor, side: int) -> Tensor:
    """(n,) -> (n, g, g) bool: a random rectangle of cells, the same in all frames of a sample (official code)."""
    found = torch.zeros(len(seeds), side, side, dtype=torch.bool)
    source = torch.Generator()
    for row, seed in enumerate(seeds.tolist()):
        source.manual_seed(seed + OTHER_DRAWS)
        top, left, high, wide_ = _rectangle(lambda: torch.rand(4, generator=source).tolist(), side)
        found[row, top : top + high, left : left + wide_] = True
    return found.to(seeds.device)


def _rectangle(draw: Callable[[], list[float]], side: int) -> tuple[int, int, int, int]:
    """Tries until one lies within the frame."""
    while True:
        a, b, c, d = draw()
        area, aspect = AREA[0] + a * (AREA[1] - AREA[0]), ASPECT[0] + b * (ASPECT[1] - ASPECT[0])
        high, across = (max(1, int(side * share**0.5)) for share in (area * aspect, area / aspect))
        top, left = int(c * side), int(d * side)
        if top + high <= side and left + across <= side:
            return top, left, high, across


def entity_loss(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Guesses (n, M) of which entities a crop shows, and the prompter's opinion (n, M), which sums to 1: their cross
    entropy, of samples whose most likely entity is at least as likely as `threshold`."""
    each = -(labels * wide(logits).log_softmax(1)).sum(1)
    return (each * (labels.amax(1) >= threshold)).sum()
