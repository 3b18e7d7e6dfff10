"""Batches of pixels: our ways to read ahead beside PyTorch's DataLoader, on the same reader and files."""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from distributed.batches import Plan
from distributed.ingest import STEPS_A_BLOCK, Ingest
from models.data.asked import AskedSplit, Item
from models.data.pixels.augmentation import AugmentationConfig
from models.data.pixels.reader import Arrays, PixelReader, PixelShape, WordsConfig
from models.data.pixels.sources import open_frames
from models.data.tokens import Tokenizer
from tests.benchmarks.timing import table
from tests.support.small_pixels import small_pixels

FRAMES, SIDE, SEED = 4, 224, 1
WAITS = 16
"""How often it is measured how long a network waits."""
Batches = Callable[[], Iterator[Any]]


@dataclass(frozen=True)
class Case:
    """Files, and how much of them is read."""

    name: str
    where: Path
    batch: int
    steps: int
    work_ms: int
    """What a network takes for a step where it is asked how long it waits."""


def pixels(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Frames a second of a run's steps, from the first few on; and how long a network that takes its time waits
    for them."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            for case in _cases(Path(folder)):
                yield _table_of(case, arguments.rounds)
        finally:
            ray.shutdown()


def _cases(folder: Path) -> Iterator[Case]:
    """Pictures of MSR-VTT and its films where MELTMATCH_DATA has them, else pictures that are made here."""
    if root := os.environ.get("MELTMATCH_DATA"):
        yield Case("frames_train.tar", Path(root) / "msrvtt" / "frames_train.tar", 16, 60, 200)
        yield Case("films", Path(root) / "msrvtt" / "videos", 5, 60, 1000)
    else:
        yield Case("frames_train.tar, made here", small_pixels(folder) / "frames_train.tar", 16, 60, 200)


def _table_of(case: Case, rounds: int) -> str:
    source = open_frames(case.where, threads=1)
    names = list(source.names())
    split = AskedSplit(names, [Item(number, ("a video",), -1) for number in range(len(names))])
    shape = PixelShape(FRAMES, SIDE, SIDE // 32)
    read = PixelReader(split, source, shape, Tokenizer("minilm"), WordsConfig(), AugmentationConfig()).varied()
    plan = Plan(range(len(read)), case.batch, SEED, 0, 1)
    ways: dict[str, Batches] = {
        "a thread of the worker": lambda: _ahead(read, plan, case.steps, 0),
        "Ray Data, 1 reader": lambda: _ahead(read, plan, case.steps, 1),
        "DataLoader, 1 worker": lambda: _loader(read, plan, case.steps, 1),
        "Ray Data, 2 readers": lambda: _ahead(read, plan, case.steps, 2),
        "DataLoader, 2 workers": lambda: _loader(read, plan, case.steps, 2),
    }
    return table(
        f"{case.name}: batches of {case.batch} x {FRAMES} frames at {SIDE} pixels",
        ("read by", "frames/s", "range", f"waits, of a step of {case.work_ms} ms"),
        [[name, *_measured(way, case, read, plan, rounds)] for name, way in ways.items()],
    )


def _ahead(read: PixelReader, plan: Plan, steps: int, readers: int) -> Iterator[Arrays]:
    ingest = Ingest(read, plan, 0, steps, readers)
    try:
        for step in range(steps):
            yield ingest.at(step)
    finally:
        ingest.close()


class _Steps(torch.utils.data.Dataset[Arrays]):
    """The batches of a run by their step."""

    def __init__(self, read: PixelReader, plan: Plan, steps: int) -> None:
        self.read, self.plan, self.steps = read, plan, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Arrays:
        return self.read(*self.plan(step))


def _loader(read: PixelReader, plan: Plan, steps: int, workers: int) -> Iterator[Any]:
    # As many batches in advance as ours; the rest as anyone would write it.
    return iter(DataLoader(_Steps(read, plan, steps), batch_size=None, num_workers=workers, prefetch_factor=4))


def _measured(way: Batches, case: Case, read: PixelReader, plan: Plan, rounds: int) -> Sequence[str]:
    speeds, waits = [], []
    for number in range(rounds):
        batches = way()
        first = next(batches)
        if not number and not np.array_equal(np.asarray(first["frames"]), read(*plan(0))["frames"]):
            raise RuntimeError("not the frames of the plan")  # or the comparison would mean nothing
        for _ in range(STEPS_A_BLOCK - 1):  # these come at once from Ray Data: a block is counted whole or not at all
            next(batches)
        began = time.perf_counter()
        count = sum(1 for _ in batches)
        speeds.append(count * case.batch * FRAMES / (time.perf_counter() - began))
    batches = way()
    next(batches)
    for _ in range(WAITS):
        time.sleep(case.work_ms / 1000)
        began = time.perf_counter()
        next(batches)
        waits.append(1000 * (time.perf_counter() - began))
    waited = statistics.mean(waits)
    return f"{statistics.median(speeds):.0f}", f"{min(speeds):.0f} to {max(speeds):.0f}", f"{waited:.1f} ms"
