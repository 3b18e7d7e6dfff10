"""How fast losses change along a random direction: by forward mode, and by their gradients."""

import torch
from torch import Tensor

from models.meltr.machine import Evaluate, OneProcess


def slopes(machine: OneProcess, evaluate: Evaluate) -> tuple[Tensor, Tensor]:
    """(T,) of the losses that `evaluate` gives: in one forward pass with tangents; and gradient by gradient."""
    direction = [torch.randn_like(parameter) for _, parameter in machine.named]
    found = machine.forward_derivatives(evaluate, direction)
    rows = torch.eye(len(found), dtype=torch.float64)
    return found, torch.stack([machine.dot(direction, machine.gradient(evaluate, row)) for row in rows])
