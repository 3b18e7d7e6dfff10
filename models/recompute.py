"""Activation checkpointing: blocks and parts of a batch keep their inputs alone, the rest is computed again."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.meltr.statistics import frozen_statistics


def recompute(blocks: Iterable[nn.Module]) -> None:
    """From now on these modules trade time for memory (Chen et al. 2016); the numbers stay the same."""
    for block in blocks:
        block.forward = partial(_checkpointed, block, block.forward)


def in_parts(compute: Callable[[slice], Any], samples: Tensor, count: int) -> list[Any]:
    """What `compute` gives for each of `count` micro-batches of the rows of `samples`; as many calls on every worker,
    some perhaps of no samples.

    With several, what comes out is all that is kept, and the rest is computed again going backward: losses see the
    whole batch, and memory holds a part.
    """
    edges = [len(samples) * part // count for part in range(count + 1)]
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    if len(parts) == 1 or not torch.is_grad_enabled():
        return [compute(part) for part in parts]
    # A tensor goes along: torch restores the random state, and with it the dropout, of its arguments' devices alone.
    return [checkpoint(lambda part, _: compute(part), part, samples, use_reentrant=False) for part in parts]


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():  # a look at values or a forward-mode pass keeps nothing anyway
        return forward(*inputs, **options)

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _Again(block)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


class _Again:
    """The second and every further time that a block is computed, which must not count as training.

    A graph that is gone through several times enters the same context each time.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __enter__(self) -> None:
        self.context = frozen_statistics(self.block)
        self.context.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.context.__exit__(*raised)
