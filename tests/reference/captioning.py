"""BLEU, ROUGE-L and CIDEr-D from their papers' formulas, one caption at a time, for tests to agree with."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

Words = tuple[str, ...]
Corpus = Sequence[tuple[Words, Sequence[Words]]]
"""Candidates with their references."""


def ngrams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[i : i + n] for i in range(len(words) - n + 1))


def bleu(corpus: Corpus, order: int) -> float:
    """Papineni et al., ACL 2002, section 2.3: BP exp(sum_n 1/N log p_n), reference length the nearest, then shorter."""
    logarithms = 0.0
    for n in range(1, order + 1):
        clipped = total = 0
        for candidate, references in corpus:
            for ngram, count in ngrams(candidate, n).items():
                clipped += min(count, max(ngrams(reference, n)[ngram] for reference in references))
                total += count
        if not clipped:
            return 0.0
        logarithms += math.log(clipped / total) / order
    c = sum(len(candidate) for candidate, _ in corpus)
    r = sum(
        min((len(reference) for reference in references), key=lambda length: (abs(length - len(candidate)), length))
        for candidate, references in corpus
    )
    return min(1.0, math.exp(1 - r / c)) * math.exp(logarithms)


def rouge_l(corpus: Corpus, beta: float = 1.2) -> float:
    """Lin, 2004, section 3: F of the longest common subsequence, from the best precision and the best recall."""
    total = 0.0
    for candidate, references in corpus:
        common = [(longest_common(candidate, reference), len(reference)) for reference in references]
        precision = max(length for length, _ in common) / max(1, len(candidate))
        recall = max(length / size for length, size in common)
        if precision and recall:
            total += (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return total / len(corpus)


def longest_common(a: Words, b: Words) -> int:
    @cache
    def length(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + length(i + 1, j + 1)
        return max(length(i + 1, j), length(i, j + 1))

    return length(0, 0)


def cider_d(corpus: Corpus, sigma: float = 6.0) -> float:
    """Vedantam et al., CVPR 2015, equations 1 to 3 and those of CIDEr-D: clipped counts, a penalty on length, times 10.

    The counts of n-grams are not divided by their number, as in the authors' program: it matters for the clipping.
    """
    total = 0.0
    for n in range(1, 5):
        containing = Counter(
            ngram for _, references in corpus for ngram in {g for words in references for g in ngrams(words, n)}
        )
        idf = {ngram: math.log(len(corpus) / videos) for ngram, videos in containing.items()}
        for candidate, references in corpus:
            own = _weights(candidate, n, idf, len(corpus))
            for reference in references:
                other = _weights(reference, n, idf, len(corpus))
                product = sum(
                    min(weight, other.get(ngram, 0.0)) * other.get(ngram, 0.0) for ngram, weight in own.items()
                )
                norms = math.hypot(*own.values()) * math.hypot(*other.values())
                penalty = math.exp(-((len(candidate) - len(reference)) ** 2) / (2 * sigma**2))
                total += 10 / 4 * penalty * product / norms / len(references) if norms else 0.0
    return total / len(corpus)


def _weights(words: Words, n: int, idf: Mapping[Words, float], videos: int) -> dict[Words, float]:
    return {ngram: count * idf.get(ngram, math.log(videos)) for ngram, count in ngrams(words, n).items()}
