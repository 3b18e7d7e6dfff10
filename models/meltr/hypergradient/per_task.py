"""s by one backward pass a loss and inner products of gradients. Exact; no memory beyond a plain step's."""

import torch
from torch import Tensor

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import Vector


def per_task(problem: Problem, vector: Vector) -> Tensor:
    """s_t = <x, dl_t/dw>."""
    machine, count = problem.machine, len(problem.losses)
    products = []
    for task in range(count):
        chosen = torch.zeros_like(problem.losses)
        chosen[task] = 1
        products.append(machine.dot(vector, machine.gradient(problem.evaluate, chosen, problem.graph)))
    return torch.stack(products)
