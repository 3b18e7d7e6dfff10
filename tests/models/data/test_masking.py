"""Masking beside its definition, its frequencies, and its independence of batch mates."""

import numpy as np
import torch

from models.data.masking import masked_frames, masked_words

MASK, VOCABULARY = 4, 50


def texts(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = 2 + torch.arange(count) % 9
    place = torch.arange(12)
    ids = torch.randint(10, VOCABULARY, (count, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 2
    ids[torch.arange(count), lengths - 1] = 3
    return ids * (place < lengths[:, None]), lengths


def test_what_is_masked() -> None:
    ids, lengths = texts(900)
    masked, labels = masked_words(range(900), 5, ids, lengths, 0.15, MASK, VOCABULARY)
    chosen = labels != -1
    place = torch.arange(12)
    content = (place > 0) & (place < lengths[:, None] - 1)
    assert not bool((chosen & ~content).any())
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    assert bool(chosen[lengths > 3].any(1).all())  # two words or more: at least one is chosen
    assert not bool(chosen[lengths == 2].any())
    is_mask = float((masked[chosen] == MASK).float().mean())
    stays = float((masked[chosen] == ids[chosen]).float().mean())
    assert 0.74 < is_mask < 0.86
    assert 0.05 < stays < 0.17
    assert 0.1 < float(chosen[lengths == 10].float().sum() / content[lengths == 10].float().sum()) < 0.25


def reference_words(number: int, draw: int, words: list[int], probability: float) -> tuple[list[int], list[int]]:
    """The words of one sample, one at a time: masked ids and labels."""
    source = np.random.default_rng(np.random.SeedSequence(draw, spawn_key=(number, 0)))
    while True:
        chosen = [source.random() < probability for _ in words]
        if any(chosen) or len(words) <= 1:
            break
    kinds, others = [source.random() for _ in words], source.integers(VOCABULARY, size=len(words)).tolist()
    masked, labels = [], []
    for word, own, kind, other in zip(words, chosen, kinds, others, strict=True):
        new = MASK if kind < 0.8 else other if kind < 0.9 else word
        masked.append(new if own else word)
        labels.append(word if own else -1)
    return masked, labels


def reference_frames(number: int, draw: int, count: int, frames: int, probability: float) -> list[int]:
    source = np.random.default_rng(np.random.SeedSequence(draw, spawn_key=(number, 1)))
    while True:
        labels = [frame if source.random() < probability else -1 for frame in range(count)]
        if any(label != -1 for label in labels):
            return labels + [-1] * (frames - count)


def test_against_one_word_and_one_frame_at_a_time() -> None:
    ids, lengths = texts(200)
    numbers = [3 * row + 1 for row in range(200)]
    masked, labels = masked_words(numbers, 11, ids, lengths, 0.3, MASK, VOCABULARY)
    counts = 1 + torch.arange(200) % 7
    frames = masked_frames(numbers, 11, counts, 8, 0.2)
    for row, number in enumerate(numbers):
        end = int(lengths[row]) - 1
        expected = reference_words(number, 11, ids[row, 1:end].tolist(), 0.3)
        assert masked[row].tolist() == [2, *expected[0], 3, *[0] * (11 - end)]
        assert labels[row].tolist() == [-1, *expected[1], -1, *[-1] * (11 - end)]
        assert frames[row].tolist() == reference_frames(number, 11, int(counts[row]), 8, 0.2)


def test_a_sample_is_masked_alike_in_any_batch() -> None:
    ids, lengths = texts(20)
    whole = masked_words(range(20), 5, ids, lengths, 0.15, MASK, VOCABULARY)
    part = masked_words([7, 3], 5, ids[[7, 3]], lengths[[7, 3]], 0.15, MASK, VOCABULARY)
    assert torch.equal(whole[0][[7, 3]], part[0])
    assert torch.equal(whole[1][[7, 3]], part[1])
    other = masked_words(range(20), 6, ids, lengths, 0.15, MASK, VOCABULARY)
    assert not torch.equal(whole[1], other[1])


def test_frames() -> None:
    counts = 1 + torch.arange(300) % 5
    labels = masked_frames(range(300), 2, counts, 6, 0.3)
    chosen = labels != -1
    assert bool(chosen.any(1).all())
    assert not bool((chosen & (torch.arange(6) >= counts[:, None])).any())
    assert torch.equal(labels[chosen], torch.arange(6).expand(300, -1)[chosen])
    assert torch.equal(masked_frames([9, 4], 2, counts[[9, 4]], 6, 0.3), labels[[9, 4]])


def test_nothing() -> None:
    ids, lengths = texts(0)
    assert masked_words([], 0, ids, lengths, 0.15, MASK, VOCABULARY)[0].shape == (0, 12)
    assert masked_frames([], 0, lengths, 6, 0.3).shape == (0, 6)
