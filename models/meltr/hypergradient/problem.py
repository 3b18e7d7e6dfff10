"""The bi-level problem at one point (w, phi), and its hypergradient from T numbers (CVPR 2023, section 3.2).

upper: min_phi L_pri = l_0 + gamma |M(l; phi) - sum_t l_t|;  lower: w* = argmin_w L_aux = M(l(w); phi).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.meltr.machine import Evaluate, Machine, Vector, add, scaled
from models.meltr.transformer import unified_and_coefficients


@dataclass
class Problem:
    """All that a scheme may look at.

    Attributes:
        losses: those of the training batch at the present weights, in the loss network's precision.
        evaluate: the losses of the training batch, or of a part of it that stands in for it.
        graph: the shares of `evaluate` with their graph, if it may be differentiated again.
        values: of `evaluate` at the present weights, unrounded, if they are known.
        meta: the losses of the meta batch, of which the primary one counts; None: the training batch.
        others: losses of further batches (StocBiO); empty: the training batch.
        rate: alpha, the rate of the inner steps (ITD).
        terms: how many products with the Hessian a scheme may take.
        series_rate: the step eta of Neumann series.
        keep_gradients: compute dl_t/dw of each loss once and make every other gradient of the batch from them, which
            saves backward passes for few losses and takes memory for as many gradients.
    """

    machine: Machine
    network: nn.Module
    evaluate: Evaluate
    losses: Tensor
    primary: int
    gamma: float
    graph: Tensor | None = None
    values: Tensor | None = None
    meta: Evaluate | None = None
    others: list[Evaluate] = field(default_factory=list)
    direct_regulariser_gradient: bool = True
    rate: float = 1.0
    terms: int = 3
    series_rate: float = 1.0
    keep_gradients: bool = False
    _kept: list[Vector] = field(default_factory=list, init=False)

    def one_hot(self) -> Tensor:
        """(T,): the primary loss alone."""
        chosen = torch.zeros_like(self.losses)
        chosen[self.primary] = 1
        return chosen

    def regulariser_weights(self, losses: Tensor) -> Tensor:
        """(T,): gamma d|M - sum_t l_t|/dl at `losses`."""
        unified, coefficients = unified_and_coefficients(self.network, losses)
        return self.gamma * torch.sign(unified - losses.sum()) * (coefficients - 1)

    def auxiliary_weights(self, losses: Tensor) -> Tensor:
        """(T,): dM/dl at `losses`."""
        return unified_and_coefficients(self.network, losses.to(self.losses))[1]

    def task_gradient(self, task: int) -> Vector:
        """dl_t/dw of one loss of the training batch."""
        if self.keep_gradients:
            if not self._kept:
                self._kept = [self._backward(row) for row in torch.eye(len(self.losses)).to(self.losses)]
            return self._kept[task]
        chosen = torch.zeros_like(self.losses)
        chosen[task] = 1
        return self._backward(chosen)

    def gradient(self, weights: Tensor) -> Vector:
        """d(sum_t weights_t l_t)/dw of the training batch, for weights (T,)."""
        if not self.keep_gradients:
            return self._backward(weights)
        total = scaled(self.task_gradient(0), float(weights[0]))
        for task, weight in enumerate(weights.tolist()[1:], start=1):
            torch._foreach_add_(total, self.task_gradient(task), alpha=weight)
        return total

    def _backward(self, weights: Tensor) -> Vector:
        return self.machine.gradient(self.evaluate, weights, self.graph)

    def primary_gradient(self) -> Vector:
        """v = dL_pri/dw at the present weights. The regulariser is always that of the training batch."""
        regulariser = self.regulariser_weights(self.losses)
        if self.meta is None:
            return self.gradient(self.one_hot() + regulariser)
        vector = self.machine.gradient(self.meta, self.one_hot())
        return add(vector, self.gradient(regulariser)) if self.gamma else vector

    def hessian_vector(self, vector: Vector, evaluate: Evaluate | None = None) -> Vector:
        """d^2 L_aux/dw^2 times `vector`, by the central difference of two gradients.

        Raises:
            UserError: the losses are computed in half precision.
        """
        machine, where = self.machine, evaluate or self.evaluate
        require_float32(machine, "combiner.scheme: products with the Hessian need", "combiner.scheme=aid_fp_lite")
        length = float(machine.dot(vector, vector).sqrt())
        if length == 0:
            return vector
        step = _weight_step(machine, length)
        gradients = []
        for sign in (1, -1):
            with machine.moved(vector, sign * step):
                gradients.append(machine.gradient(where, self.auxiliary_weights))
        return scaled(add(gradients[0], gradients[1], -1.0), 1 / (2 * step))


def require_float32(machine: Machine, what: str, instead: str) -> None:
    """Raises UserError for losses in half precision: rounding drowns their differences, and has turned signs."""
    if machine.half_precision:
        raise UserError(
            f"{what} a float32 forward pass (in bf16 it gives the wrong sign); set engine.precision=fp32, or {instead}"
        )


def _weight_step(machine: Machine, length: float) -> float:
    """eps for a central difference of gradients along a vector of this length: a share of the weights' own length.

    The share balances truncation (eps^2) against rounding (1/eps).
    """
    weights = machine.weights()
    share = 1e-3 if all(w.dtype == torch.float32 for w in weights) else 1e-5
    return share * max(1.0, float(machine.dot(weights, weights).sqrt())) / length


Way = Callable[[Problem, Vector], Tensor]
"""s_t = <x, dl_t/dw> (T,) of the training batch for a vector x."""

Scheme = Callable[[Problem], tuple[Vector, float]]
"""The vector x and a factor of the whole hypergradient."""


def hypergradient(problem: Problem, scheme: Scheme, way: Way) -> list[Tensor]:
    """dL_pri/dphi, one tensor a parameter of the loss network.

    The only double backward goes through the loss network itself.
    """
    vector, factor = scheme(problem)
    products = way(problem, vector).to(problem.losses.dtype)
    parameters = [p for p in problem.network.parameters() if p.requires_grad]
    unified, coefficients = unified_and_coefficients(problem.network, problem.losses, create_graph=True)
    upper = -factor * (products.detach() * coefficients).sum()
    if problem.direct_regulariser_gradient and problem.gamma:
        upper = upper + problem.gamma * (unified - problem.losses.sum()).abs()
    found = torch.autograd.grad(upper, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
