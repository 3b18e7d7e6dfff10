"""s by differentiating the backbone twice: the slow reference, and what the released code does."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.meltr.hypergradient.problem import Problem
from models.meltr.machine import OneProcess, Vector
from models.meltr.statistics import frozen_statistics


def double_backward(problem: Problem, vector: Vector) -> Tensor:
    """s = d/du <x, d(sum_t u_t l_t)/dw>. One process only: the second derivative bypasses every sharded engine."""
    machine = problem.machine
    if not isinstance(machine, OneProcess):
        raise ValueError("double_backward runs in one process only; choose forward_mode or per_task")
    parameters = [p for _, p in machine.named]
    with sdpa_kernel(SDPBackend.MATH), frozen_statistics(machine.module):  # fused attention has no double backward
        losses = problem.evaluate(machine.module)
        weights = torch.ones_like(losses, requires_grad=True)
        gradient = torch.autograd.grad((weights * losses).sum(), parameters, create_graph=True, allow_unused=True)
        product = torch.stack([(g * x).sum() for g, x in zip(gradient, vector, strict=True) if g is not None]).sum()
        (found,) = torch.autograd.grad(product, weights)
    return found
