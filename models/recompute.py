"""Activation checkpointing from outside: blocks keep their inputs alone and compute the rest again going backward."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.meltr.statistics import frozen_statistics


def recompute(blocks: Iterable[nn.Module]) -> None:
    """From now on these modules trade time for memory (Chen et al. 2016); the numbers stay the same."""
    for block in blocks:
        block.forward = partial(_checkpointed, block, block.forward)


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
