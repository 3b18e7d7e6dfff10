"""What a model may ask of the other workers. Collectives come in as an argument; one process needs none."""

from typing import Protocol

from torch import Tensor


class Collectives(Protocol):
    """Sums over all workers, and rows of all workers."""

    @property
    def world_size(self) -> int: ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The element-wise sum over workers; differentiable: its gradient is summed over workers too."""
        ...

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replaces `tensor` by its sum over workers; not differentiable."""
        ...

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """(n, ...) rows, n differing between workers and possibly 0 -> all of them in the order of the workers, and
        where this worker's begin. Differentiable: a row's gradient is the sum over workers of what they did with it."""
        ...


class Alone:
    """The collectives of a single process: nothing to do."""

    world_size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_in_place(self, tensor: Tensor) -> None:
        pass

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        return rows, 0
