"""s by a difference of loss values: two forward passes without gradient, of float32 (or wider) weights only."""

import torch
from torch import Tensor

from models.meltr.hypergradient.problem import Problem, difference_step, require_float32
from models.meltr.machine import Vector


def finite_difference(problem: Problem, vector: Vector) -> Tensor:
    """s_t = (l_t(w + e x) - l_t(w - e x)) / 2e.

    Raises:
        UserError: the losses are computed in half precision, whose rounding would drown the difference (and has been
            seen to turn its sign).
    """
    machine = problem.machine
    require_float32(machine, "combiner.way=finite_difference needs", "combiner.way=forward_mode or per_task")
    length = float(machine.dot(vector, vector).sqrt())
    if length == 0:
        return torch.zeros_like(problem.losses)
    step = difference_step(machine, length)
    values = []
    for sign in (1, -1):
        with machine.moved(vector, sign * step):
            values.append(machine.values(problem.evaluate).double())
    return (values[0] - values[1]) / (2 * step)
