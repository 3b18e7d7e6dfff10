"""Approximate implicit differentiation by a fixed-point (Neumann) series, as in AuxiLearn (Navon et al. 2021)."""

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector, add, scaled


def aid_fp(problem: Problem) -> tuple[Vector, float]:
    """x = eta sum_{j=0..n} (I - eta H)^j v, which tends to H^-1 v; n = `terms`, eta = `series_rate`."""
    term = total = problem.primary_gradient()
    for _ in range(problem.terms):
        term = add(term, problem.hessian_vector(term), -problem.series_rate)
        total = add(total, term)
    return scaled(total, problem.series_rate), 1.0
