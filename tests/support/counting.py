"""Counts what torch.distributed is given during steps of training, and what the kernel's loopback carries."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distributed.config import Recipe
from tests.benchmarks.traffic import Model, Rows
from tests.support.trainers import new_trainer

UNREACHED = ("bert.pooler.", "visual.pooler.")
"""Official weights that no loss of UniVL depends on."""
CAPTION_BIAS = "decoder.classifier.cls.predictions.bias"
"""UniVL's forward pass uses it for each of its two captions."""


BEFORE = 3
"""Steps that do not count: in them DeepSpeed's stage 3 learns the order of the modules. The next one is an ordinary
one, and the one after that begins with a meta step."""


class Steps(NamedTuple):
    """A run of a few steps, as one worker counts it."""

    model: Model
    counted: list[dict[str, int]]
    """Bytes of each counted step, by kind of collective."""
    calls: list[int]
    loopback: list[int]
    """Bytes that all programs of this network namespace sent through `lo`, headers included."""


class CollectiveCounter(TorchDispatchMode):
    """Sees every collective of any library: all go through torch's dispatcher on their way to gloo or NCCL."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self._count(func._schema.name.partition("::")[2], args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any) -> None:
        kind: str = name  # of a kind that nobody calculates, so that a comparison fails
        if name == "allreduce_":
            kind = "all_reduce"
            size = sum(_bytes(tensor) for tensor in args[0])
        elif name == "allgather_":
            kind, size = "all_gather", sum(_bytes(tensor) for tensor in args[0][0])
        elif name == "_allgather_base_":
            kind, size = "all_gather", _bytes(args[0])
        elif name == "_reduce_scatter_base_":
            kind, size = "reduce_scatter", _bytes(args[1])
        else:
            size = sum(_bytes(part) for part in args[0]) if isinstance(args[0], list) else 0
        self.bytes[kind] += size
        self.calls += 1


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def loopback_bytes() -> int:
    """What `lo` has sent since it is up (Linux)."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])


def count_steps(recipe: Recipe, releases: bool = False) -> Steps:
    """Trains a UniVL with K = 2 and counts an ordinary step, and one that begins with a meta step.

    `releases`: as a large model does at ZeRO-3 (see `traffic.Setting`).
    """
    trainer = new_trainer(recipe)
    if releases:
        coordinator = trainer.engine._engine.optimizer.parameter_offload.get_param_coordinator()
        for name in ("max_reuse_dist_in_numel", "max_n_available_params"):
            private = f"_PartitionedParameterCoordinator__{name}"
            assert getattr(coordinator, private) == 10**9  # what traffic.py says
            setattr(coordinator, private, 0)
    counted: list[dict[str, int]] = []
    calls, loopback = [], []
    for _ in range(BEFORE):
        trainer.train_step()
    for _ in range(2):
        dist.barrier()
        before = loopback_bytes()
        with CollectiveCounter() as counter:
            trainer.train_step()
        dist.barrier()
        counted.append(dict(counter.bytes))
        calls.append(counter.calls)
        loopback.append(loopback_bytes() - before)
    shapes = {name: shape.numel() for name, shape in trainer.engine.shards.shapes.items()}
    reached = tuple(n for name, n in shapes.items() if not name.startswith(UNREACHED))
    unreached = tuple(n for name, n in shapes.items() if name.startswith(UNREACHED))
    batch = trainer.sampler.at(0).parts[0]
    samples, frames, width = batch.video.shape
    hidden = shapes["bert.embeddings.LayerNorm.weight"]
    rows = negatives(samples, frames, width, hidden, 4 if recipe.engine.precision == "fp32" else 2)
    return Steps(Model(reached, unreached, (shapes[CAPTION_BIAS],), rows), counted, calls, loopback)


def negatives(samples: int, frames: int, width: int, hidden: int, precision: int) -> tuple[Rows, ...]:
    """The gathers of UniVL's forward pass with all eight losses, for n samples of F frames of D numbers.

    Vectors of texts and videos (joint) in float32 at least, encoded videos with their masks and the number of texts
    (align), both twice: clean and masked; and the frames with their masks (cmfm).
    """
    joint = [Rows(samples * hidden * 4, True)] * 2
    mask = Rows(samples * frames * 8, False)
    align = [Rows(samples * frames * hidden * precision, True), mask, Rows(8, False)]
    return (*2 * (joint + align), Rows(samples * frames * width * precision, True), mask)
