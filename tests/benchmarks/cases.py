"""What is timed: batches of training pieces, whole movies to decode, and one training step."""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from models.data.examples import Example
from models.data.movie import Clip, Movie, Snippet
from models.data.yms import read_splits, read_yms
from models.neumatch.actions import YMS_ACTIONS
from models.neumatch.network import Batch, NeuMATCH, NeuMATCHConfig, smoothed_cross_entropy
from models.neumatch.samples import Sample, collate, training_samples
from models.optim.lars import LARS
from tests.reference.batches import legal_actions

WIDTH, BATCH, LONGEST = 300, 32, 100


def network(device: torch.device, dtype: torch.dtype = torch.float32) -> NeuMATCH:
    """The best published model (RP + SBN), the same for the same arguments."""
    torch.manual_seed(0)
    return NeuMATCH(NeuMATCHConfig(), WIDTH, WIDTH).to(device, dtype)


def generated_samples(count: int = 6 * BATCH) -> list[Sample]:
    """Pieces of 100 actions, of about 75 clips and 25 snippets."""
    chance, source = random.Random(0), torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        snippets = chance.randint(20, 30)
        clips = LONGEST - snippets
        video, text = (torch.randn(n, WIDTH, generator=source) for n in (clips, snippets))
        samples.append(Sample(video, text, legal_actions(clips, snippets, YMS_ACTIONS, chance)))
    return samples


def generated_movies(count: int = 15) -> list[Example]:
    """Movies of about YMS's mean length, 180 clips and 66 snippets."""
    chance = random.Random(0)
    return [
        _with_features(
            Movie(
                f"{number}",
                tuple(Clip(f"c{i}", i, i + 1) for i in range(chance.randint(120, 250))),
                tuple(Snippet(f"s{j}", "x", 2 * j, 2 * j + 2) for j in range(chance.randint(45, 95))),
            ),
            number,
        )
        for number in range(count)
    ]


def _with_features(movie: Movie, seed: int) -> Example:
    # Random ones: what the numbers are does not change what is computed.
    source = torch.Generator().manual_seed(seed)
    video, text = (torch.randn(len(part), WIDTH, generator=source) for part in (movie.clips, movie.snippets))
    return Example(movie, video, text)


def real_movies(split: str) -> list[Example]:
    """The movies of a split of yms_msrvtt below MELTMATCH_DATA; none without it."""
    root = os.environ.get("MELTMATCH_DATA")
    if not root:
        return []
    folder = Path(root) / "yms_msrvtt"
    movies = read_yms(folder)
    return [_with_features(movies[name], seed) for seed, name in enumerate(read_splits(folder, movies)[split])]


def real_samples() -> list[Sample]:
    """The training pieces of yms_msrvtt in a fixed random order; none without MELTMATCH_DATA."""
    samples = [s for example in real_movies("train") for s in training_samples(example, LONGEST, YMS_ACTIONS)]
    random.Random(0).shuffle(samples)
    return samples


def batches(samples: Sequence[Sample], device: torch.device) -> list[Batch]:
    """Batches of 32 on the device."""
    made = []
    for start in range(0, len(samples) - BATCH + 1, BATCH):
        batch = collate(samples[start : start + BATCH], WIDTH, WIDTH)
        moved = {f.name: getattr(batch, f.name).to(device) for f in fields(batch) if not f.name.endswith("lengths")}
        made.append(replace(batch, **moved))
    return made


Forward = Callable[[NeuMATCH, Batch], tuple[Tensor, Tensor]]


def parallel(model: NeuMATCH, batch: Batch) -> tuple[Tensor, Tensor]:
    """Our forward: logits and gold ids."""
    logits, gold, _ = model(batch)
    return logits, gold


class Trainer:
    """Forward, backward and LARS; below float32 with float32 master weights, as in training."""

    def __init__(self, model: NeuMATCH, forward: Forward) -> None:
        self.model, self.forward = model, forward
        self.weights: list[Tensor] = list(model.parameters())
        low = self.weights[0].dtype != torch.float32
        self.masters = [w.detach().float() for w in self.weights] if low else self.weights
        self.optimiser = LARS(self.masters)

    def step(self, batch: Batch) -> None:
        self.model.zero_grad()
        logits, gold = self.forward(self.model, batch)
        (smoothed_cross_entropy(logits, gold, 0.03) / len(gold)).backward()
        if self.masters is self.weights:
            self.optimiser.step()
            return
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = weight.grad.float() if weight.grad is not None else None
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)
