"""Monotone dynamic programming from a similarity matrix to an alignment: what every learned baseline decodes with.

Shapes: N clips, M snippets, U unmatched scores tried at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.data.movie import Alignment, Movie
from models.neumatch.metrics import Score, score


def align_monotone(similarity: Tensor, unmatched: float) -> Alignment:
    """The alignment of the largest total score in which later clips never go to earlier snippets.

    A clip earns `similarity[i, j]` when it is matched with snippet j and `unmatched` when it is not. Snippets may be
    skipped and may have many clips.

    Args:
        similarity: (N, M).
        unmatched: the score of leaving a clip unmatched; `-inf` matches every clip.

    Raises:
        ValueError: `similarity` is not a matrix or holds a NaN.
    """
    return align_monotone_each(similarity, [unmatched])[0]


def align_monotone_each(similarity: Tensor, unmatched: Sequence[float]) -> list[Alignment]:
    """`align_monotone` for each of U unmatched scores, in one pass over the clips: O(N M U) time and memory."""
    if similarity.ndim != 2 or bool(similarity.isnan().any()):
        raise ValueError(f"needs an (N, M) matrix of similarities without NaN, got shape {tuple(similarity.shape)}")
    clips, texts = similarity.shape
    if texts == 0:
        return [[() for _ in range(clips)] for _ in unmatched]
    rows = similarity.detach().to("cpu", torch.float64)
    alone = torch.tensor(unmatched, dtype=torch.float64)[:, None]
    # best[u, j]: the largest total of the clips so far when none of them goes beyond snippet j. It never falls in j,
    # so the best predecessor of a match with k is best[u, k] itself and a running maximum over k does the rest.
    best = torch.zeros(len(unmatched), texts, dtype=torch.float64)
    matched, last = [], []
    for row in rows:
        match, text = torch.cummax(best + row, dim=1)
        leave = best + alone
        matched.append(match > leave)
        last.append(text)
        best = torch.maximum(match, leave)
    return [
        _trace_back([m[u].tolist() for m in matched], [t[u].tolist() for t in last], texts)
        for u in range(len(unmatched))
    ]


def choose_unmatched(
    movies: Sequence[Movie], similarities: Sequence[Tensor], candidates: Sequence[float]
) -> tuple[float, Score]:
    """The unmatched score with the best mean of video accuracy and text IoU over `movies`, and its figures."""
    alignments = [align_monotone_each(similarity, candidates) for similarity in similarities]
    scores = [score(movies, [each[u] for each in alignments]) for u in range(len(candidates))]
    best = max(range(len(candidates)), key=lambda u: scores[u].mean)
    return candidates[best], scores[best]


def _trace_back(matched: Sequence[Sequence[bool]], last: Sequence[Sequence[int]], texts: int) -> Alignment:
    alignment: Alignment = [()] * len(matched)
    limit = texts - 1
    for i in reversed(range(len(matched))):
        if matched[i][limit]:
            limit = last[i][limit]
            alignment[i] = (limit,)
    return alignment
