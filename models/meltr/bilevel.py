"""Algorithm 1 of MELTR (CVPR 2023): K steps on the backbone's weights, one on the loss network, repeat.

Engine-independent: weights are reached through a `Machine` alone, so the same code runs in a plain PyTorch loop and
under any sharded engine. One inner step is:

1. losses l of the batch, averaged over the global batch before the loss network sees them;
2. after every K steps: the hypergradient at (w, phi), one Adam step on phi;
3. c = dM/dl at the (new) phi; the caller steps on sum_t c_t l_t.

The meta step uses the forward pass of the step that follows it, so with meta data `same` it costs one backward pass and
T directional derivatives; with `per_task` and few losses the step's own gradient comes out of it as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.meltr.config import MELTRConfig
from models.meltr.hypergradient import SCHEMES, WAYS, Problem, hypergradient
from models.meltr.hypergradient.per_task import KEPT
from models.meltr.machine import Evaluate, Machine, Vector
from models.meltr.transformer import fit_to_sum, loss_network, unified_and_coefficients


@dataclass
class MetaBatches:
    """What a meta step may look at beside the training batch.

    Attributes:
        primary: the batch whose primary loss is the upper objective; None: the training batch.
        training: stands in for the training batch in the hypergradient (a share of it, say); None: all of it.
        others: further batches, for StocBiO.
    """

    primary: Evaluate | None = None
    training: Evaluate | None = None
    others: list[Evaluate] = field(default_factory=list)


@dataclass(frozen=True)
class Combination:
    """What one step knows of the losses."""

    losses: Tensor
    """(T,) means over the global batch."""
    coefficients: Tensor
    """(T,) c_t = dM/dl_t."""
    unified: float
    """M."""
    hypergradient_norm: float | None = None
    """Before the cap; None where no meta step was due."""
    gradient: Vector | None = None
    """d(sum_t c_t l_t)/dw, where the meta step knows it already: the caller may step along it."""


class LearnedLoss:
    """phi, its optimiser, and where Algorithm 1 stands."""

    def __init__(
        self, config: MELTRConfig, names: Sequence[str], primary: str, seed: int, device: torch.device | None = None
    ) -> None:
        """`names`: of the losses, in a fixed order; `primary`: which of them the user cares about."""
        self.config, self.names, self.primary = config, tuple(names), tuple(names).index(primary)
        self.network = loss_network(config.network, len(names), seed).to(device)
        self.parameters = list(self.network.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, config.rate, (config.beta1, config.beta2))
        self.steps = 0
        """Inner steps done; the place in the inner loop is this modulo K."""
        self.seed = seed

    @property
    def meta_due(self) -> bool:
        """Whether the next call of `combine` takes a meta step first."""
        return self.steps > 0 and self.steps % self.config.inner_steps == 0

    def start(self, losses: Tensor) -> None:
        """With `initialisation: sum`, fits phi to the sum over the range that the first losses (T,) suggest."""
        if self.config.initialisation == "sum":
            low, high = 0.25 * losses.abs(), 1.5 * losses.abs() + 0.1
            fit_to_sum(self.network, low, high, seed=self.seed)

    def combine(
        self,
        machine: Machine,
        evaluate: Evaluate,
        graph: Tensor | None,
        losses: Tensor,
        inner_rate: float = 1.0,
        decay: float = 1.0,
        meta: Callable[[], MetaBatches] = MetaBatches,
    ) -> Combination:
        """Steps 2 and 3 of an inner step. The caller then steps the weights on sum_t c_t l_t.

        Args:
            machine: holds the weights.
            evaluate: the batch's losses; `graph`: shares of it with their graph, if it may be used again.
            losses: (T,) their means over the global batch.
            inner_rate: alpha, the rate of the next inner step.
            decay: the share of its rate that phi's optimiser uses.
            meta: called when a meta step is due, for the batches that it looks at.
        """
        values, losses = losses.detach(), losses.detach().to(self.parameters[0])
        if self.steps == 0:
            self.start(losses)
        norm, problem = None, None
        if self.meta_due:
            batches = meta()
            whole = batches.training is None
            problem = Problem(
                machine=machine,
                network=self.network,
                evaluate=batches.training or evaluate,
                losses=losses,
                primary=self.primary,
                gamma=self.config.gamma,
                graph=graph if whole else None,
                values=values if whole else None,
                meta=batches.primary,
                others=batches.others,
                direct_regulariser_gradient=self.config.direct_regulariser_gradient,
                rate=inner_rate,
                terms=self.config.terms,
                series_rate=self.config.series_rate,
                keep_gradients=self.config.way == "per_task" and len(losses) <= KEPT,
            )
            norm = self._meta_step(problem, decay)
        self.steps += 1
        unified, coefficients = unified_and_coefficients(self.network, losses)
        gradient = None
        if problem is not None and problem.keep_gradients and problem.values is not None:
            gradient = problem.gradient(coefficients)
        return Combination(losses, coefficients, float(unified), norm, gradient)

    def _meta_step(self, problem: Problem, decay: float) -> float:
        gradient = hypergradient(problem, SCHEMES[self.config.scheme], WAYS[self.config.way])
        norm = torch.stack(torch._foreach_norm([g.double() for g in gradient])).square().sum().sqrt()
        if not bool(norm.isfinite()):
            raise FloatingPointError("the hypergradient is not finite")
        scale = min(1.0, self.config.gradient_cap / (float(norm) + 1e-12)) if self.config.gradient_cap else 1.0
        for parameter, g in zip(self.parameters, gradient, strict=True):
            parameter.grad = g * scale
        self.optimiser.param_groups[0]["lr"] = self.config.rate * decay
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """phi and its optimiser's moments by name; `steps` is the caller's to keep (see `load`)."""
        named = {}
        for name, parameter in self.network.named_parameters():
            named[f"phi/{name}"] = parameter.detach()
            for kind in ("exp_avg", "exp_avg_sq"):
                moments = self.optimiser.state.get(parameter, {})
                named[f"{kind}/{name}"] = moments.get(kind, torch.zeros_like(parameter)).detach()
        return named

    def load(self, state: dict[str, Tensor], steps: int) -> None:
        """The inverse of `state`, after `steps` inner steps."""
        self.steps = steps
        meta_steps = (steps - 1) // self.config.inner_steps if steps else 0
        for name, parameter in self.network.named_parameters():
            with torch.no_grad():
                parameter.copy_(state[f"phi/{name}"])
            if meta_steps:
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(meta_steps)),
                    **{kind: state[f"{kind}/{name}"].to(parameter).clone() for kind in ("exp_avg", "exp_avg_sq")},
                }
