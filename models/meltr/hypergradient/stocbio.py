"""StocBiO (Ji et al. 2021): the Neumann series with a batch of its own for every product with the Hessian."""

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector, add, scaled


def stocbio(problem: Problem) -> tuple[Vector, float]:
    """x = eta sum_{j=0..n} prod_{k<=j} (I - eta H_k) v, where H_k is the Hessian on the k-th of `others` (in turn)."""
    term = total = problem.primary_gradient()
    batches = problem.others or [problem.evaluate]
    for number in range(problem.terms):
        product = problem.hessian_vector(term, batches[number % len(batches)])
        term = add(term, product, -problem.series_rate)
        total = add(total, term)
    return scaled(total, problem.series_rate), 1.0
