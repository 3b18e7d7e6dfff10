"""Approximate implicit differentiation by conjugate gradients (Rajeswaran et al. 2019)."""

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector, add, scaled


def aid_cg(problem: Problem) -> tuple[Vector, float]:
    """x after `terms` conjugate-gradient steps on H x = v from x = 0.

    Stops before a direction along which the Hessian is not positive: there the quadratic has no minimum. If that is
    the first one, x = v.
    """
    machine = problem.machine
    residual = direction = vector = problem.primary_gradient()
    squared = float(machine.dot(residual, residual))
    solution = scaled(vector, 0.0)
    for number in range(problem.terms):
        product = problem.hessian_vector(direction)
        curvature = float(machine.dot(direction, product))
        if curvature <= 0:
            return (vector if number == 0 else solution), 1.0
        step = squared / curvature
        solution = add(solution, direction, step)
        residual = add(residual, product, -step)
        before, squared = squared, float(machine.dot(residual, residual))
        if squared <= 1e-20 * float(machine.dot(vector, vector)):
            break
        direction = add(residual, direction, squared / before)
    return solution, 1.0
