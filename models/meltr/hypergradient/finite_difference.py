"""s by differences of loss values: forward passes without gradient, of float32 (or wider) weights only."""

import torch
from torch import Tensor

from models.meltr.hypergradient.problem import Problem, require_float32
from models.meltr.machine import Vector

CENTRAL_SHARE, ONE_SIDED_SHARE = 5e-3, 5e-4
"""How far a step moves the losses, as a share of the largest: a balance of truncation (the square of the share for a
central difference, the share itself for a one-sided one) and rounding (its inverse)."""


def finite_difference(problem: Problem, vector: Vector) -> Tensor:
    """s_t = (l_t(w + e x) - l_t(w - e x)) / 2e: two forward passes.

    Raises:
        UserError: the losses are computed in half precision, whose rounding would drown the difference (and has been
            seen to turn its sign).
    """
    step = _step(problem, vector, CENTRAL_SHARE, "finite_difference")
    if step is None:
        return torch.zeros_like(problem.losses)
    return (_moved(problem, vector, step) - _moved(problem, vector, -step)) / (2 * step)


def one_sided_difference(problem: Problem, vector: Vector) -> Tensor:
    """s_t = (l_t(w + e x) - l_t(w)) / e: one forward pass, and an error of the first order in e.

    Raises:
        UserError: as `finite_difference`.
    """
    step = _step(problem, vector, ONE_SIDED_SHARE, "one_sided_difference")
    if step is None:
        return torch.zeros_like(problem.losses)
    here = problem.machine.values(problem.evaluate) if problem.values is None else problem.values
    return (_moved(problem, vector, step) - here.double()) / step


def _step(problem: Problem, vector: Vector, share: float, way: str) -> float | None:
    """e such that the losses move by about `share`, since dl/de is about |x|^2 for an x that is about a gradient.

    None for x = 0.
    """
    require_float32(problem.machine, f"combiner.way={way} needs", "combiner.way=forward_mode or per_task")
    squared = float(problem.machine.dot(vector, vector))
    if squared == 0:
        return None
    rounding = torch.finfo(problem.machine.weights()[0].dtype).eps
    share *= (rounding / torch.finfo(torch.float32).eps) ** (1 / 3)  # float64 may look closer
    return share * (float(problem.losses.abs().max()) + 1e-3) / squared


def _moved(problem: Problem, vector: Vector, step: float) -> Tensor:
    with problem.machine.moved(vector, step):
        return problem.machine.values(problem.evaluate).double()
