"""s by one forward-mode pass: the losses' derivatives along x. Exact; about two forward passes."""

from torch import Tensor

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector


def forward_mode(problem: Problem, vector: Vector) -> Tensor:
    """s_t = dl_t(w + e x)/de at e = 0."""
    return problem.machine.forward_derivatives(problem.evaluate, vector)
