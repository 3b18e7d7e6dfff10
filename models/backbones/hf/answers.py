"""How likely each of many known answers is: all of them in one pass, as the branches of one tree.

Shape legend: C answers, K nodes of the tree, R = 1 + K rows: what was read before the answer, then the nodes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class AnswerTree(NamedTuple):
    """Answers that begin alike share the nodes of their beginning."""

    tokens: Tensor
    """(K,)."""
    parents: Tensor
    """(K,) rows: 0 for the first token of an answer."""
    depths: Tensor
    """(K,): how many tokens are before it."""
    ends: Tensor
    """(C,) rows: the last token of each answer; 0 for one without tokens."""
    paths: Tensor
    """(R, K) bool: the nodes from the root to a row, itself included."""

    def mask(self, before: int, dtype: torch.dtype) -> Tensor:
        """(before + K,) squared, to be added to the attention's scores: tokens see those before them, nodes what was
        read before and their own path."""
        length = before + len(self.tokens)
        seen = torch.zeros(length, length, dtype=torch.bool, device=self.tokens.device)
        seen[:before, :before] = torch.ones(before, before, dtype=torch.bool, device=seen.device).tril()
        seen[before:, :before] = True
        seen[before:, before:] = self.paths[1:]
        return torch.zeros(length, length, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)

    def scores(self, steps: Tensor, stops: Tensor) -> Tensor:
        """(K,) log-probabilities of each node after its parent, (R,) of the end after each row -> (C,) of answers."""
        return self.paths[self.ends].to(steps.dtype) @ steps + stops[self.ends]


def tree_of(answers: Sequence[Sequence[int]]) -> AnswerTree:
    """The tree of C answers, as tokens."""
    rows: dict[tuple[int, ...], int] = {(): 0}
    for answer in answers:
        for end in range(1, len(answer) + 1):
            rows.setdefault(tuple(answer[:end]), len(rows))
    nodes = list(rows)[1:]
    paths = torch.zeros(len(rows), len(nodes), dtype=torch.bool)
    for node in nodes:
        row = rows[node]
        paths[row] = paths[rows[node[:-1]]]
        paths[row, row - 1] = True

    def numbers(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long)

    return AnswerTree(
        numbers([node[-1] for node in nodes]),
        numbers([rows[node[:-1]] for node in nodes]),
        numbers([len(node) - 1 for node in nodes]),
        numbers([rows[tuple(answer)] for answer in answers]),
        paths,
    )
