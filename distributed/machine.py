"""The engine's weights as bi-level optimisation sees them: gradients and directional derivatives in ZeRO's own layout.

A vector is one fp32 tensor a slice of this worker (see shards.py). Inner products and loss values are summed over
workers in float64, so that every worker gets the same bits and the loss network stays the same everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.engine import Engine
from distributed.shards import Slice
from models.errors import UserError
from models.meltr.machine import Evaluate, Vector, Weights, forward_mode, gradient_by_pieces
from models.meltr.statistics import frozen_statistics


class EngineMachine:
    """An Engine as a `models.meltr.machine.Machine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def half_precision(self) -> bool:
        """Whether losses are computed in bf16."""
        return self.engine.config.precision == "bf16"

    def values(self, evaluate: Evaluate) -> Tensor:
        with torch.no_grad(), frozen_statistics(self.engine.module):
            return self.total(evaluate(self.engine))

    def total(self, shares: Tensor) -> Tensor:
        whole = shares.detach().double()
        dist.all_reduce(whole)
        return whole

    def gradient(self, evaluate: Evaluate, weights: Weights, graph: Tensor | None = None) -> Vector:
        engine = self.engine
        graph = None if engine.partitioned else graph
        named = dict(engine.module.named_parameters())

        def differentiate(loss: Tensor) -> Vector:
            if engine.partitioned:
                return engine.partitioned_gradient(loss)
            found = torch.autograd.grad(loss, list(named.values()), retain_graph=graph is not None, allow_unused=True)
            return self._summed(dict(zip(named, found, strict=True)))

        with frozen_statistics(engine.module):
            return gradient_by_pieces(self, engine, evaluate, weights, graph, differentiate)

    def _summed(self, found: dict[str, Tensor | None]) -> Vector:
        """This worker's slices of the sum over workers of whole gradients."""
        shapes = self.engine.shards.shapes
        flat = torch.zeros(sum(shape.numel() for shape in shapes.values()), device=self.engine.device)
        place, at = {}, 0
        for name, shape in shapes.items():
            place[name] = at
            if (gradient := found[name]) is not None:
                flat[at : at + shape.numel()] = gradient.reshape(-1)
            at += shape.numel()
        dist.all_reduce(flat)

        def own(s: Slice) -> Tensor:
            part = flat.narrow(0, place[s.name] + s.start, s.length)
            return part.clone() if self.engine.shards.sharded else part

        return [own(s) for s in self.engine.shards.slices]

    def forward_derivatives(self, evaluate: Evaluate, direction: Vector) -> Tensor:
        engine = self.engine
        if engine.partitioned:
            raise UserError(
                "combiner.way=forward_mode needs whole weights on every worker, which engine.zero_stage=3 does not "
                "keep; set combiner.way=per_task, or engine.zero_stage=2"
            )
        part = {id(s): vector for s, vector in zip(engine.shards.slices, direction, strict=True)}
        whole = engine.shards.whole(lambda s: part[id(s)])
        dtypes = {name: p.dtype for name, p in engine.module.named_parameters()}
        tangents = [(name, tensor.to(dtypes[name])) for name, tensor in whole.items()]
        return self.total(forward_mode(engine.module, evaluate, tangents))

    @contextmanager
    def moved(self, direction: Vector, step: float) -> Iterator[None]:
        # Through .data, which autograd does not watch: graphs made before stay good, because the weights come back.
        shards = self.engine.shards
        weights = [s.tensor.data.view(-1).narrow(0, s.offset, s.length) for s in shards.slices]
        kept = [weight.clone() for weight in weights]
        torch._foreach_add_(weights, direction, alpha=step)
        shards.publish()
        try:
            yield
        finally:
            torch._foreach_copy_(weights, kept)
            shards.publish()

    def dot(self, left: Vector, right: Vector) -> Tensor:
        product = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        for a, b in zip(left, right, strict=True):
            product += (a * b).sum(dtype=torch.float64)
        self.engine.shards.collectives.sum_in_place(product)
        return product

    def weights(self) -> Vector:
        return [s.weight() for s in self.engine.shards.slices]
