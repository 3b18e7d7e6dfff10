"""Dynamic masking of words and frames: a function of a step's draw and the sample's own number alone.

Shape legend: n samples, W tokens, F frames.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.backbones.video_language import NO_LABEL
from models.data.chance import Chance, generator


def masked_words(
    numbers: Sequence[int],
    draw: int,
    ids: Tensor,
    lengths: Tensor,
    probability: float,
    mask: int,
    vocabulary: int,
) -> tuple[Tensor, Tensor]:
    """Chooses words as BERT does (Devlin et al. 2019): 80 % become `mask`, 10 % another word, 10 % stay.

    Args:
        numbers: of the samples.
        ids: (n, W), [CLS] words [SEP] padding.
        lengths: (n,), [CLS] and [SEP] included. Those two are never chosen; at least one word is, unless there is only
            one.

    Returns:
        Masked ids (n, W) and labels (n, W), the word that was there or -1.
    """
    masked, labels = ids.clone(), torch.full_like(ids, NO_LABEL)
    for row, (number, length) in enumerate(zip(numbers, lengths.tolist(), strict=True)):
        source = generator(draw, number, Chance.WORDS)
        words = max(0, length - 2)
        chosen = _chosen(source, words, probability, again=words > 1)
        kinds, others = source.random(words), source.integers(vocabulary, size=words)
        at = torch.from_numpy(chosen.nonzero()[0]) + 1
        labels[row, at] = ids[row, at]
        new = np.where(kinds < 0.8, mask, others)
        stays = kinds >= 0.9
        masked[row, at] = torch.where(
            torch.from_numpy(stays[chosen]), ids[row, at], torch.from_numpy(new[chosen]).to(ids.dtype)
        )
    return masked, labels


def masked_frames(numbers: Sequence[int], draw: int, counts: Tensor, frames: int, probability: float) -> Tensor:
    """-> labels (n, F): the own number of frames that are to be set to zero, at least one a sample; -1 elsewhere."""
    labels = torch.full((len(counts), frames), NO_LABEL, dtype=torch.long)
    for row, (number, count) in enumerate(zip(numbers, counts.tolist(), strict=True)):
        at = torch.from_numpy(
            _chosen(generator(draw, number, Chance.FRAMES), count, probability, again=count > 0).nonzero()[0]
        )
        labels[row, at] = at
    return labels


def _chosen(
    source: np.random.Generator, count: int, probability: float, again: bool
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(count,): each with the same probability; with `again` drawn until there is one."""
    chosen = source.random(count) < probability
    while again and not chosen.any():
        chosen = source.random(count) < probability
    return chosen
