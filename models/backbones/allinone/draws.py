"""What is random about a sample beside its data: functions of seeds, so that batch mates and workers change nothing.

Shape legend: n samples of this worker, N of all workers, T frames, P patches of a frame, X tokens of a text.
"""

from enum import IntEnum

import torch
from torch import Tensor

from models.collectives import Collectives

_INCREMENT, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Those of SplitMix64 (Steele et al., OOPSLA 2014), as signed numbers."""
_LAST = torch.iinfo(torch.int64).max


class Draw(IntEnum):
    """What is drawn; no two draws of a sample have anything in common."""

    ORDER, MATCH, PARTNER, FALSE_TEXTS = range(4)


def _mixed(x: Tensor) -> Tensor:
    """int64 -> int64, one to one and as good as random. Sums and products wrap around, on every device alike."""
    x = x + _INCREMENT
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """Shifted to the right, with zeros coming in: torch copies the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _stream(seeds: Tensor, draw: Draw) -> Tensor:
    return _mixed(_mixed(seeds) + int(draw))


def patch_orders(seeds: Tensor, frames: int, patches: int) -> Tensor:
    """(n,) -> (n, T, P): a random permutation of each frame's patches, from its sample's seed and its number alone."""
    of_frames = _mixed(_stream(seeds, Draw.ORDER)[:, None] + torch.arange(frames, device=seeds.device))
    keys = _mixed(of_frames[:, :, None] + torch.arange(patches, device=seeds.device))
    return keys.argsort(-1)  # keys of a frame differ, so there is one order


def matched(seeds: Tensor) -> Tensor:
    """(n,) bool: which samples keep their own text, on average half of them."""
    return _stream(seeds, Draw.MATCH) >= 0


def others_texts(ids: Tensor, seeds: Tensor, draw: Draw, most: int, collectives: Collectives) -> tuple[Tensor, Tensor]:
    """Texts (n, X) -> for each, texts of up to `most` other samples of all workers, (n, k, X), and which of these
    exist, (n, k) bool: those that say the same as the own one do not count.

    k is the same on all workers: `most`, or N - 1 where that is less, and at least 1. Which are taken follows from the
    two samples' seeds, whatever their places.
    """
    texts, _ = collectives.gather(ids)
    theirs, _ = collectives.gather(seeds)
    texts = torch.cat([texts, texts.new_zeros(1, *texts.shape[1:])])  # a place to point to where there is no other
    keys = _mixed(_stream(seeds, draw)[:, None] + theirs)
    same = (ids[:, None] == texts[None, :-1]).all(-1)
    keys = torch.cat([keys.masked_fill(same, _LAST), keys.new_full((len(keys), 1), _LAST)], 1)
    count = max(1, min(most, len(theirs) - 1))
    order = keys.argsort(dim=-1, stable=True)[:, :count]
    return texts[order], keys.gather(1, order) != _LAST
