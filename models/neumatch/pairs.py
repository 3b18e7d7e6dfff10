"""Pairs of a clip and a snippet that belong together: what contrastive learning and the learned baselines train on."""

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


@dataclass(frozen=True)
class PairTable:
    """P pairs as rows of two tables, each row of which may be in many.

    Attributes:
        video: (n, d_video), preprocessed as the network reads it.
        text: (m, d_text), likewise.
        rows: (P, 2) int64, a row of each.
        group: (P,) int64; pairs of one group are not each other's negatives.
    """

    video: Tensor
    text: Tensor
    rows: Tensor
    group: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> "PairTable":
        """The matched pairs of movies; a group is a snippet."""
        at = torch.arange(len(pairs.snippet))
        return cls(pairs.video, pairs.text, torch.stack([at, at], 1), pairs.snippet)

    def __add__(self, other: "PairTable") -> "PairTable":
        moved = other.rows + torch.tensor([len(self.video), len(self.text)])
        groups = int(self.group.max()) + 1 if len(self.group) else 0
        return PairTable(
            torch.cat([self.video, other.video]),
            torch.cat([self.text, other.text]),
            torch.cat([self.rows, moved]),
            torch.cat([self.group, other.group + groups]),
        )
