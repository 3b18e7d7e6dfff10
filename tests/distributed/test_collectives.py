"""Rows of all workers, with derivatives, beside one process that has them all."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad

from distributed.collectives import WorldCollectives
from tests.support.workers import on_workers

COUNTS = (3, 0, 2)


def function(own: Tensor, everyone: Tensor) -> Tensor:
    """A sum over own rows in which every row has a part."""
    return (own @ everyone.T).tanh().sum() + (everyone**3).sum() * len(own)


def rows() -> Tensor:
    return torch.randn(sum(COUNTS), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gathered() -> list[list[float]]:
    rank = dist.get_rank()
    own = rows().split(COUNTS)[rank].requires_grad_()
    everyone, start = WorldCollectives().gather(own)
    value = function(own, everyone)
    value.backward()
    assert own.grad is not None
    direction = rows().flip(0).split(COUNTS)[rank]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(own.detach(), direction)
        slope = forward_ad.unpack_dual(function(dual, WorldCollectives().gather(dual)[0])).tangent
    integers, _ = WorldCollectives().gather(torch.full((COUNTS[rank],), rank))
    return [
        [float(value.detach()), float(slope), float(start)],
        own.grad.flatten().tolist(),
        everyone.detach().flatten().tolist(),
        integers.tolist(),
    ]


def test_gather() -> None:
    found = on_workers(3, gathered)
    whole = rows().requires_grad_()
    value = torch.stack([function(own, whole) for own in whole.split(COUNTS)]).sum()
    (expected,) = torch.autograd.grad(value, whole)
    torch.testing.assert_close(sum(numbers[0][0] for numbers in found), float(value.detach()))
    gradients = torch.cat([torch.tensor(numbers[1], dtype=torch.float64) for numbers in found])
    torch.testing.assert_close(gradients, expected.flatten())
    torch.testing.assert_close(sum(numbers[0][1] for numbers in found), float((expected * rows().flip(0)).sum()))
    assert [numbers[0][2] for numbers in found] == [0, 3, 3]
    for numbers in found:
        assert numbers[2] == rows().flatten().tolist()
        assert numbers[3] == [0, 0, 0, 2, 2]
