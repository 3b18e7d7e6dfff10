"""s by one backward pass a loss and inner products of gradients. Exact, and works everywhere."""

import torch
from torch import Tensor

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector

KEPT = 3
"""Up to so many losses their gradients are kept (`Problem.keep_gradients`): with the step's own and dL_pri/dw made from
them, no way is cheaper. For more losses `forward_mode` is, and this way then keeps to the memory of a plain step."""


def per_task(problem: Problem, vector: Vector) -> Tensor:
    """s_t = <x, dl_t/dw>."""
    return torch.stack([problem.machine.dot(vector, problem.task_gradient(t)) for t in range(len(problem.losses))])
