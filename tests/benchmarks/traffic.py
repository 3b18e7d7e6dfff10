"""Bytes and collectives of a training step, and what a meta step of MELTR adds to it, calculated.

`tests/distributed/test_traffic.py` holds them against what torch.distributed is given. Notation: N workers, P trainable
elements in L tensors, T losses. A collective's size is that of the whole: of the tensor that is summed (`all_reduce`,
`reduce_scatter`), or of what everybody has afterwards (`all_gather`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from models.meltr.hypergradient.per_task import KEPT

Kind = Literal["all_reduce", "all_gather", "reduce_scatter"]
DOUBLE, LONG = 8, 8
BUCKET, PERSISTENT = 500_000_000, 10_000
"""Elements: what DeepSpeed reduces at once, and the size below which ZeRO-3 keeps a tensor whole (engine.py)."""
LOOKS = {"finite_difference": 2, "one_sided_difference": 1}
"""Forward passes without gradient at moved weights."""


@dataclass(frozen=True)
class Collective:
    """`calls` collectives of one kind, of `size` bytes in all."""

    what: str
    kind: Kind
    size: int
    calls: int = 1

    def sent(self, workers: int) -> float:
        """Bytes that each worker sends (and receives) around a ring."""
        return (2 if self.kind == "all_reduce" else 1) * (workers - 1) / workers * self.size


@dataclass(frozen=True)
class Rows:
    """A gather over workers (`models.collectives.Collectives.gather`): bytes of this worker's rows."""

    size: int
    differentiable: bool


@dataclass(frozen=True)
class Model:
    """Elements of the trainable tensors.

    Attributes:
        reached: of tensors that some loss depends on.
        unreached: of the others.
        again: of tensors that a forward pass uses more than once, one entry for each further time.
        rows: the gathers of a forward pass (negatives).
    """

    reached: tuple[int, ...]
    unreached: tuple[int, ...] = ()
    again: tuple[int, ...] = ()
    rows: tuple[Rows, ...] = ()

    @property
    def tensors(self) -> tuple[int, ...]:
        return self.reached + self.unreached

    @property
    def elements(self) -> int:
        """P."""
        return sum(self.tensors)


@dataclass(frozen=True)
class Setting:
    """How it is run.

    Attributes:
        losses: T.
        releases: ZeRO-3 alone: whether weights are let go after the forward pass and gathered again going backward.
            DeepSpeed does so for what it will not meet again within 1e9 elements; a smaller model keeps them.
    """

    workers: int
    stage: int
    losses: int
    way: str = "per_task"
    low: bool = False
    """bf16, from stage 1 on."""
    lars: bool = False
    releases: bool = False

    @property
    def width(self) -> int:
        """Bytes of a weight in the network, and of a gradient on its way between workers."""
        return 2 if self.low else 4


def _cut(tensors: Sequence[int], workers: int) -> int:
    """Elements with the padding that makes every tensor's parts equal (ZeRO-3)."""
    return sum(math.ceil(n / workers) * workers for n in tensors)


def _calls(elements: int) -> int:
    return math.ceil(elements / BUCKET)


def plain(model: Model, at: Setting) -> Iterator[Collective]:
    """A step with fixed coefficients."""
    # And whether every worker could read its samples.
    yield Collective("losses and their weights", "all_reduce", (2 * at.losses + 1) * DOUBLE, 2)
    yield from _forward(model, at)
    yield from _backward(model, at)
    yield from _reduced(model, at, sum(model.reached))
    if at.stage == 0:
        return
    yield Collective("DeepSpeed's norm", "all_reduce", DOUBLE if at.stage == 3 else 4)
    if at.low and at.stage < 3:
        yield Collective("whether a number overflowed", "all_reduce", 1)
    layers = len(model.tensors)
    yield Collective("the optimiser's norms", "all_reduce", (2 + at.lars) * layers * DOUBLE, 1 + at.lars)
    if at.stage == 3:
        yield _pass(model, at, 2 if at.releases else 1)
    yield _published(model, at, 1)


def meta(model: Model, at: Setting) -> Iterator[Collective]:
    """What a step that begins with a meta step makes beyond a plain one (AID-FP-Lite, meta data `same`)."""
    yield Collective("agreement on phi", "all_reduce", 2 * DOUBLE)
    kept = at.way == "per_task" and at.losses <= KEPT
    count = (0 if kept else 1) + (at.losses if at.way == "per_task" else 0)
    looks = LOOKS.get(at.way, 0)
    if at.stage == 3:
        # The forward pass that gave the losses is done again for every gradient, and for the step itself. Weights that
        # are not let go are still there for the first of them.
        passes = 2 * count + 1 if at.releases else count
        yield _pass(model, at, passes + looks)
        yield from _forward(model, at, count + 1 + looks)
        yield from _backward(model, at, count)
        for collective in _reduced(model, at, sum(model.reached)):
            yield Collective(collective.what, collective.kind, count * collective.size, count * collective.calls)
    else:
        yield Collective("whole gradients", "all_reduce", count * model.elements * 4, count)
        # `kept`: the step's own gradient is a combination of them, and reaches every tensor.
        yield from _backward(model, at, count - 1 if kept else count)
        if kept and at.stage:
            yield Collective("gradients", "all_reduce", sum(model.unreached) * at.width, 0)
        yield from _forward(model, at, looks + (at.way == "forward_mode"))
    if at.stage and at.way != "forward_mode":
        dots = at.losses if at.way == "per_task" else 1
        yield Collective("inner products", "all_reduce", dots * DOUBLE, dots)
    if at.way == "forward_mode":
        if at.stage:
            yield Collective("the whole direction", "all_reduce", model.elements * 4, len(model.tensors))
        tangents = [rows.size * at.workers for rows in model.rows if rows.differentiable]
        yield Collective("tangents of negatives", "all_gather", sum(tangents), len(tangents))
    if looks and at.stage:
        yield _published(model, at, 2 * looks)
    totals = looks + (at.way == "forward_mode")
    yield Collective("losses", "all_reduce", totals * at.losses * DOUBLE, totals)


def _forward(model: Model, at: Setting, times: int = 1) -> Iterator[Collective]:
    """Negatives of all workers, and how many rows each has of them."""
    calls = times * len(model.rows)
    yield Collective("counts of negatives", "all_reduce", calls * at.workers * LONG, calls)
    yield Collective("negatives", "all_gather", times * at.workers * sum(rows.size for rows in model.rows), calls)


def _backward(model: Model, at: Setting, times: int = 1) -> Iterator[Collective]:
    sizes = [rows.size * at.workers for rows in model.rows if rows.differentiable]
    yield Collective("gradients of negatives", "all_reduce", times * sum(sizes), times * len(sizes))


def _reduced(model: Model, at: Setting, reached: int) -> Iterator[Collective]:
    """DeepSpeed's sum of gradients. Stages 1 and 2 sum them whole on every worker, too."""
    if at.stage == 3:
        cut = _cut(model.reached, at.workers)
        yield Collective("gradients", "reduce_scatter", cut * at.width, _calls(cut))
    else:
        elements = reached if at.stage else model.elements
        yield Collective("gradients", "all_reduce", elements * at.width, _calls(elements))


def _pass(model: Model, at: Setting, times: int) -> Collective:
    """ZeRO-3's gathers of the weights that are cut up. At most so many calls: neighbours are fetched together."""
    tensors = [n for n in model.tensors + (model.again if at.releases else ()) if n >= PERSISTENT]
    return Collective("weights", "all_gather", times * _cut(tensors, at.workers) * at.width, times * len(tensors))


def _published(model: Model, at: Setting, times: int) -> Collective:
    """Changed weights become the network's: all of them, at stage 3 those that are kept whole."""
    if at.stage == 3:
        small = [n for n in model.tensors if n < PERSISTENT]
        size, calls = _cut(small, at.workers), len(small)
    else:
        size, calls = math.ceil(model.elements / (2 * at.workers)) * 2 * at.workers, 1  # NCCL's alignment
    return Collective("changed weights", "all_gather", times * size * at.width, times * calls)


def total(collectives: Sequence[Collective], kind: Kind) -> int:
    """Bytes of one kind."""
    return sum(c.size for c in collectives if c.kind == kind)


def sent(collectives: Sequence[Collective], workers: int) -> float:
    """Bytes that each worker sends around rings."""
    return sum(c.sent(workers) for c in collectives)


def calls(collectives: Sequence[Collective]) -> int:
    """How many collectives there are."""
    return sum(c.calls for c in collectives)
