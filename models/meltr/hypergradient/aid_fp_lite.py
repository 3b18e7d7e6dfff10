"""AID-FP-Lite: the inverse Hessian taken as the identity (MELTR's own scheme, CVPR 2023, section 3.2)."""

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector


def aid_fp_lite(problem: Problem) -> tuple[Vector, float]:
    """x = dL_pri/dw."""
    return problem.primary_gradient(), 1.0
