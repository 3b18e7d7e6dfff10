"""Batches of pixels: our ways to read ahead beside PyTorch's DataLoader, on the same reader and files."""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from distributed.batches import Plan
from distributed.ingest import Ingest
from models.data.asked import AskedSplit, Item
from models.data.pixels.augmentation import AugmentationConfig
from models.data.pixels.reader import Arrays, PixelReader, PixelShape, WordsConfig
from models.data.pixels.sources import open_frames
from models.data.tokens import Tokenizer
from tests.benchmarks.timing import table
from tests.support.small_pixels import small_pixels

STEPS, BATCH, FRAMES, SIDE, SEED = 60, 16, 4, 224, 1
WORK_MS = 200
"""What a network takes for a step where it is asked how long it waits."""

Batches = Callable[[], Iterator[Any]]


def pixels(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Frames a second of a run's first steps, from the first batch on; and how long a network that takes its time waits
    for them."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        root = os.environ.get("MELTMATCH_DATA")
        where = Path(root) / "msrvtt" / "frames_train.tar" if root else small_pixels(Path(folder)) / "frames_train.tar"
        source = open_frames(where)
        names = list(source.names())
        split = AskedSplit(names, [Item(number, ("a video",), -1) for number in range(len(names))])
        shape = PixelShape(FRAMES, SIDE, SIDE // 32)
        read = PixelReader(split, source, shape, Tokenizer("minilm"), WordsConfig(), AugmentationConfig()).varied()
        plan = Plan(range(len(read)), BATCH, SEED, 0, 1)
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            ways: dict[str, Batches] = {
                "a thread of the worker": lambda: _ahead(read, plan, 0),
                "Ray Data, 1 reader": lambda: _ahead(read, plan, 1),
                "DataLoader, 1 worker": lambda: _loader(read, plan, 1),
                "Ray Data, 2 readers": lambda: _ahead(read, plan, 2),
                "DataLoader, 2 workers": lambda: _loader(read, plan, 2),
            }
            rows = [[name, *_measured(way, read, plan, arguments.rounds)] for name, way in ways.items()]
        finally:
            ray.shutdown()
    yield table(
        f"Batches of {BATCH} x {FRAMES} frames at {SIDE} pixels",
        ("read by", "frames/s", "range", f"waits, of a step of {WORK_MS} ms"),
        rows,
    )


def _ahead(read: PixelReader, plan: Plan, readers: int) -> Iterator[Arrays]:
    ingest = Ingest(read, plan, 0, STEPS, readers)
    try:
        for step in range(STEPS):
            yield ingest.at(step)
    finally:
        ingest.close()


class _Steps(torch.utils.data.Dataset[Arrays]):
    """The batches of a run by their step."""

    def __init__(self, read: PixelReader, plan: Plan) -> None:
        self.read, self.plan = read, plan

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, step: int) -> Arrays:
        return self.read(*self.plan(step))


def _loader(read: PixelReader, plan: Plan, workers: int) -> Iterator[Any]:
    # As many batches in advance as ours; the rest as anyone would write it.
    return iter(DataLoader(_Steps(read, plan), batch_size=None, num_workers=workers, prefetch_factor=4))


def _measured(way: Batches, read: PixelReader, plan: Plan, rounds: int) -> Sequence[str]:
    speeds, waits = [], []
    for number in range(rounds):
        batches = way()
        first = next(batches)
        if not number and not np.array_equal(np.asarray(first["frames"]), read(*plan(0))["frames"]):
            raise RuntimeError("not the frames of the plan")  # or the comparison would mean nothing
        began = time.perf_counter()
        count = sum(1 for _ in batches)
        speeds.append(count * BATCH * FRAMES / (time.perf_counter() - began))
    batches = way()
    next(batches)
    for _ in range(STEPS - 1):
        time.sleep(WORK_MS / 1000)
        began = time.perf_counter()
        next(batches)
        waits.append(1000 * (time.perf_counter() - began))
    waited = statistics.mean(waits)
    return f"{statistics.median(speeds):.0f}", f"{min(speeds):.0f} to {max(speeds):.0f}", f"{waited:.1f} ms"
