"""Answers to questions and classes of videos: accuracy, of all and by kind of question or class."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.backbones.video_language import Kind
from models.data.asked import Item

FIRST_WORDS = ("what", "who", "how", "when", "where", "which", "why")
"""Questions are told apart by these; all others are `other`."""
TOP = 5


def answer_scores(places: Tensor, items: Sequence[Item], kind: Kind) -> dict[str, float]:
    """Percent of n items that are answered right; empty for n = 0.

    `accuracy` is of all items, those of unknown answer included: they are wrong. `top-5`, of open-ended questions and
    of recognition, counts those whose answer is among the best 5. Of questions there is `accuracy (what)` and so on, by
    their first word; of recognition `mean class accuracy`, the mean over the classes that items have.

    Args:
        places: (n,) int64, where the right answer of each item stands among all by its score, from 1 for the best. Of
            answers with the same score each should have the last of their places, so that equal scores are no success.
        items: n of them, in the same order.
        kind: what was asked.

    Raises:
        ValueError: not as many places as items, or one below 1; or retrieval, which has no answers.
    """
    if kind == "retrieval":
        raise ValueError("retrieval has no answers: models.metrics.retrieval scores it")
    if places.shape != (len(items),) or bool((places < 1).any()):
        raise ValueError(f"needs a place, from 1, for each of {len(items)} items; these are {(*places.shape,)}")
    if not items:
        return {}
    answers = torch.tensor([item.answer for item in items])
    places = places.cpu().masked_fill(answers < 0, torch.iinfo(torch.int64).max)
    right = places == 1
    scores = {"accuracy": _percent(right)}
    if kind != "multiple_choice":
        scores["top-5"] = _percent(places <= TOP)
    if kind == "recognition":
        shares = [_percent(right[answers == number]) for number in answers[answers >= 0].unique()]
        return scores | ({"mean class accuracy": sum(shares) / len(shares)} if shares else {})
    words = [first_word(item.texts[0]) for item in items]
    for word in (*FIRST_WORDS, "other"):
        rows = [row for row, found in enumerate(words) if found == word]
        if rows:
            scores[f"accuracy ({word})"] = _percent(right[rows])
    return scores


def majority(training: Iterable[Item], tested: Sequence[Item]) -> float:
    """Percent that is right if the answer is always the most frequent known one of the training items, the first of
    several.

    Raises:
        ValueError: no training item has a known answer, or there is nothing to test.
    """
    counts = Counter(item.answer for item in training if item.answer >= 0)
    if not counts or not tested:
        raise ValueError(f"needs known training answers and items to test, not {len(counts)} and {len(tested)}")
    most = min(counts, key=lambda answer: (-counts[answer], answer))
    return 100 * sum(item.answer == most for item in tested) / len(tested)


def first_word(question: str) -> str:
    """One of FIRST_WORDS, or `other`."""
    found = re.match(r"[^a-z]*([a-z]+)", question.lower())
    return found[1] if found and found[1] in FIRST_WORDS else "other"


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()
