"""Captions by beam search, for all samples at once (Luo et al. 2020; the options go beyond the official code)."""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from models.backbones.univl.layers import KeysValues
from models.backbones.univl.network import UniVL
from models.config import StrictConfig


class BeamSearchConfig(StrictConfig):
    """How captions are searched. The defaults are the official code's."""

    beams: int = Field(default=5, ge=1)
    max_words: int = Field(default=20, ge=1)
    stop: Literal["best", "all"] = "best"
    """`best`: a sample is done when its best beam has said [SEP]; other beams that say it go on. `all`: a beam that
    says it is kept as it is, and the sample is done when all of them have."""
    length_penalty: float = Field(default=0.0, ge=0)
    """With a > 0 finished captions are ranked by score / words^a."""


class Hypothesis(NamedTuple):
    """A caption as token ids, without the leading [CLS] and up to the end of the search; and its log probability."""

    ids: list[int]
    score: float


@torch.no_grad()
def beam_search(
    network: UniVL, crossed: Tensor, memory_mask: Tensor, first: int, last: int, config: BeamSearchConfig
) -> list[list[Hypothesis]]:
    """Cross encodings (n, L, H) with their mask (n, L) -> for each sample its hypotheses, the best first.

    `first` and `last` are the ids of [CLS] and [SEP].
    """
    beams = config.beams
    found: list[list[Hypothesis]] = [[] for _ in range(len(crossed))]
    going = list(range(len(crossed)))
    decoder, text = network.decoder, network.bert.embeddings
    memory, past = decoder.remember(crossed), list[KeysValues]()
    words = torch.full((len(crossed), beams, 1), first, device=crossed.device)
    scores = torch.full((len(crossed), beams), -torch.inf, device=crossed.device)
    scores[:, 0] = 0  # all beams are alike at first, so only one of them counts
    for _ in range(config.max_words):
        if not going:
            break
        states, past = decoder.step(words[:, :, -1], past, text, memory, memory_mask)
        gains = network.caption_logits(states).log_softmax(-1)
        ended = words[:, :, -1] == last
        if config.stop == "all":  # a finished beam may only repeat its end, at no cost
            gains[ended] = -torch.inf
            gains[..., last].masked_fill_(ended, 0.0)
        scores, best = (scores[..., None] + gains).flatten(1).topk(beams, dim=1)
        parents, tokens = best // gains.shape[-1], best % gains.shape[-1]
        words = torch.cat([words.gather(1, parents[..., None].expand(-1, -1, words.shape[2])), tokens[..., None]], 2)
        ended = words[:, :, -1] == last
        done = ended[:, 0] if config.stop == "best" else ended.all(1)
        for row in done.nonzero()[:, 0].tolist():
            found[going[row]] = _ranked(words[row], scores[row], last, config)
        left = (~done).nonzero()[:, 0]
        going = [going[row] for row in left.tolist()]
        words, scores, memory_mask = words[left], scores[left], memory_mask[left]
        memory = [(keys[left], values[left]) for keys, values in memory]
        rows = (left[:, None] * beams + parents[left]).flatten()
        past = [(keys[rows], values[rows]) for keys, values in past]
    for row, sample in enumerate(going):
        found[sample] = _ranked(words[row], scores[row], last, config)
    return found


def _ranked(words: Tensor, scores: Tensor, last: int, config: BeamSearchConfig) -> list[Hypothesis]:
    hypotheses = []
    for ids, score in zip(words[:, 1:].tolist(), scores.tolist(), strict=True):
        end = ids.index(last) + 1 if config.stop == "all" and last in ids else len(ids)
        hypotheses.append(Hypothesis(ids[:end], score))
    if config.length_penalty:
        hypotheses.sort(key=lambda h: h.score / len(h.ids) ** config.length_penalty, reverse=True)
    return hypotheses
