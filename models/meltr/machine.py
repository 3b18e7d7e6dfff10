"""What bi-level optimisation asks of whatever holds the backbone's weights; and that for one process.

The weights are vectors in the machine's own layout: a list of tensors, of which each worker may hold a part. All
results that are numbers are already summed over workers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.meltr.statistics import frozen_statistics

Vector = list[Tensor]
"""A direction in weight space, in a machine's layout."""

Network = Callable[..., Any]

Evaluate = Callable[[Network], Tensor]
"""Network -> (T,), this worker's share of the losses: summed over workers they are means over the global batch.
Every call gives the same numbers for the same weights (it sets the random state itself)."""

Weights = Tensor | Callable[[Tensor], Tensor]
"""(T,) coefficients of the losses, or a function of the loss values (T,) that gives them."""


class Machine(Protocol):
    """Holds the weights, and differentiates with respect to them."""

    @property
    def half_precision(self) -> bool:
        """Whether losses are computed below float32: differences of them are then useless."""
        ...

    def values(self, evaluate: Evaluate) -> Tensor:
        """(T,) loss values, without a graph, leaving running statistics as they are."""
        ...

    def total(self, shares: Tensor) -> Tensor:
        """The sum over workers, detached, the same bits everywhere."""
        ...

    def gradient(self, evaluate: Evaluate, weights: Weights, graph: Tensor | None = None) -> Vector:
        """d(sum_t weights_t l_t)/dw over all workers. `graph`: shares of `evaluate` that may be used again."""
        ...

    def forward_derivatives(self, evaluate: Evaluate, direction: Vector) -> Tensor:
        """(T,) derivatives of the losses along `direction`, by forward-mode differentiation."""
        ...

    def moved(self, direction: Vector, step: float) -> Any:
        """A context in which the weights are w + step * direction; afterwards they are exactly w again."""
        ...

    def dot(self, left: Vector, right: Vector) -> Tensor:
        """The inner product, a float64 scalar."""
        ...

    def weights(self) -> Vector:
        """The weights themselves (not copies)."""
        ...


def add(left: Vector, right: Vector, scale: float = 1.0) -> Vector:
    """left + scale * right."""
    return list(torch._foreach_add(left, right, alpha=scale))


def scaled(vector: Vector, factor: float) -> Vector:
    """factor * vector."""
    return list(torch._foreach_mul(vector, factor))


def gradient_by_pieces(
    machine: Machine,
    network: Network,
    evaluate: Evaluate,
    weights: Weights,
    graph: Tensor | None,
    differentiate: Callable[[Tensor], Vector],
) -> Vector:
    """`Machine.gradient` for a machine that can differentiate one loss.

    An `evaluate` with an attribute `pieces` is the sum of those (micro-batches), of which only one graph at a time is
    then held.
    """
    pieces: Sequence[Evaluate] = (evaluate,) if graph is not None else getattr(evaluate, "pieces", (evaluate,))
    if not isinstance(weights, Tensor) and len(pieces) > 1:  # they depend on the losses of all pieces
        weights = weights(machine.values(evaluate))
    total: Vector = []
    for piece in pieces:
        shares = piece(network) if graph is None else graph
        chosen = weights if isinstance(weights, Tensor) else weights(machine.total(shares))
        vector = differentiate((shares * chosen.to(shares)).sum())
        total = add(total, vector) if total else vector
    return total


def forward_mode(module: nn.Module, evaluate: Evaluate, tangents: Sequence[tuple[str, Tensor]]) -> Tensor:
    """(T,) derivatives of `evaluate` when the named parameters of `module` move along their tangents."""
    parameters = dict(module.named_parameters())  # a tied weight has one name and moves once
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), frozen_statistics(module), torch.no_grad():
        duals = {name: forward_ad.make_dual(parameters[name].detach(), tangent) for name, tangent in tangents}
        shares = evaluate(lambda *inputs: functional_call(module, duals, inputs))
        tangent = forward_ad.unpack_dual(shares).tangent
    return torch.zeros_like(shares) if tangent is None else tangent.detach()


class OneProcess:
    """The machine of a plain PyTorch loop: the trainable parameters of one module in one process."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not self.named:
            raise ValueError("the module has no parameter that requires a gradient")

    @property
    def half_precision(self) -> bool:
        return any(p.dtype in (torch.bfloat16, torch.float16) for _, p in self.named)

    def values(self, evaluate: Evaluate) -> Tensor:
        with torch.no_grad(), frozen_statistics(self.module):
            return evaluate(self.module).detach()

    def total(self, shares: Tensor) -> Tensor:
        return shares.detach()

    def gradient(self, evaluate: Evaluate, weights: Weights, graph: Tensor | None = None) -> Vector:
        parameters = [p for _, p in self.named]

        def differentiate(loss: Tensor) -> Vector:
            found = torch.autograd.grad(loss, parameters, retain_graph=graph is not None, allow_unused=True)
            # A loss may reach only some parameters.
            return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]

        with frozen_statistics(self.module):
            return gradient_by_pieces(self, self.module, evaluate, weights, graph, differentiate)

    def forward_derivatives(self, evaluate: Evaluate, direction: Vector) -> Tensor:
        tangents = [(name, vector) for (name, _), vector in zip(self.named, direction, strict=True)]
        return forward_mode(self.module, evaluate, tangents)

    @contextmanager
    def moved(self, direction: Vector, step: float) -> Iterator[None]:
        # Through .data, which autograd does not watch: graphs made before stay good, because the weights come back.
        weights = [p.data for _, p in self.named]
        kept = [weight.clone() for weight in weights]
        torch._foreach_add_(weights, direction, alpha=step)
        try:
            yield
        finally:
            torch._foreach_copy_(weights, kept)

    def dot(self, left: Vector, right: Vector) -> Tensor:
        return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(left, right, strict=True)]).sum()

    def weights(self) -> Vector:
        return [p.detach() for _, p in self.named]
