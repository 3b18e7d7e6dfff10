"""Retrieval by ridge regression: finds what is linear, and what it must not see stays unseen."""

import torch
from torch.nn import functional as F

from models.baselines.ridge_search import CAPTIONS, RidgeSearch, captions_used
from models.data.videos import Caption, Frames, VideoTextSplit
from models.metrics.retrieval import ranks, retrieval_scores


def split(videos: int, seed: int, captions: int = 2) -> tuple[VideoTextSplit, torch.Tensor]:
    """Videos whose frames are a linear map of what their captions mean, noisy; and the captions' embeddings."""
    source = torch.Generator().manual_seed(seed)
    meaning = torch.randn(videos, 6, generator=source)
    way = torch.randn(6, 20, generator=torch.Generator().manual_seed(99))
    frames = (meaning @ way)[:, None] + 0.3 * torch.randn(videos, 3, 20, generator=source)
    counts = torch.randint(1, 4, (videos,), generator=source)
    frames[torch.arange(3) >= counts[:, None]] = 1e3  # padding, whatever it holds
    texts = [Caption(video, f"{video} {number}") for video in range(videos) for number in range(captions)]
    noise = 0.1 * torch.randn(len(texts), 6, generator=source)
    embeddings = F.normalize(meaning.repeat_interleave(captions, 0) + noise + 2, dim=1)
    queries = [Caption(video, f"{video} 0") for video in range(videos)]
    return VideoTextSplit([str(v) for v in range(videos)], Frames(frames, counts), texts, queries), embeddings


def test_finds_what_is_linear() -> None:
    train, embeddings = split(200, 0)
    test, others = split(50, 1)
    search = RidgeSearch(train.frames, train.captions, embeddings)
    found = search.scores(others[::2], test.frames)
    assert found.shape == (50, 50)
    scores = retrieval_scores(ranks(found, torch.arange(50)))
    assert scores["R@1"] > 60
    wrong = retrieval_scores(ranks(found, torch.arange(50).roll(1)))
    assert wrong["R@1"] < 10


def test_the_closed_form() -> None:
    train, embeddings = split(60, 2, captions=1)
    search = RidgeSearch(train.frames, train.captions, embeddings)
    means = torch.stack([f[: int(c)].mean(0) for f, c in zip(train.frames.features, train.frames.counts, strict=True)])
    x, y = search.standardise(means).double(), (embeddings - embeddings.mean(0)).double()
    penalty = search.strength * float(x.square().sum(0).mean())
    rows = torch.cat([x, penalty**0.5 * torch.eye(20, dtype=torch.float64)])
    expected = torch.linalg.lstsq(rows, torch.cat([y, torch.zeros(20, 6, dtype=torch.float64)])).solution
    torch.testing.assert_close(search.weight, expected.float(), rtol=1e-4, atol=1e-6)


def test_captions_used() -> None:
    train, _ = split(3, 0, captions=7)
    used = captions_used(train)
    assert [caption.video for caption in used] == [0] * CAPTIONS + [1] * CAPTIONS + [2] * CAPTIONS
