"""Iterative differentiation through one unrolled inner step, as in Meta-Weight-Net (Shu et al. 2019)."""

from dataclasses import replace

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector


def itd(problem: Problem) -> tuple[Vector, float]:
    """x = dL_pri/dw after the step w' = w - alpha dL_aux/dw, times alpha: the derivative of L_pri(w'(phi)).

    L_pri's regulariser is that of the training batch at w'.
    """
    machine = problem.machine
    inner = problem.gradient(problem.auxiliary_weights(problem.losses))
    with machine.moved(inner, -problem.rate):
        ahead = replace(problem, losses=machine.values(problem.evaluate).to(problem.losses), graph=None, values=None)
        vector = ahead.primary_gradient()
    return vector, problem.rate
