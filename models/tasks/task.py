"""What every task offers to a training loop: data in, named losses and figures out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Task(Protocol):
    """Batches, named losses and scores of one kind of training.

    Losses go by name, never by position. Each is given as its sum over this worker's share of a batch, and `weights`
    says over how much; dividing by the weight of the global batch makes it a mean, however the batch is cut up.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of all losses."""
        ...

    @property
    def primary(self) -> str:
        """The loss that the user cares about."""
        ...

    @property
    def whole_batch(self) -> bool:
        """Whether a sample's losses look at the rest of its batch. Its network then takes micro-batches by itself, as
        many as its attribute `micro_batches` says."""
        ...

    def __len__(self) -> int:
        """Training samples."""
        ...

    def network(self) -> Any:
        """A freshly initialised module."""
        ...

    def drop_start(self) -> None:
        """From now on `network` leaves the weights alone that the configuration names: they come from a checkpoint."""
        ...

    def pretrain(self, network: Any, seed: int, say: Callable[[str], None] | None = None) -> None:
        """What a fresh network learns before the first step, the same on every worker; often nothing. `say` is told
        how it goes."""
        ...

    def batch(self, indices: Sequence[int], device: torch.device, draw: int) -> Any:
        """The training samples at `indices` (possibly none) on `device`.

        What is random about a sample depends on `draw` and its own number alone, never on its batch mates.
        """
        ...

    def weights(self, batch: Any) -> dict[str, float]:
        """How much each loss of this batch counts."""
        ...

    def losses(self, network: Callable[..., Any], batch: Any, names: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """The losses `names`, each summed over this batch, and what else `figures` wants to see (without gradient)."""
        ...

    def figures(self, seen: Any) -> dict[str, float | list[float]]:
        """Figures of an epoch's last step, from what `losses` gave along; may be empty."""
        ...

    def component(self, parameter: str) -> str:
        """The part of the network that a parameter belongs to, for figures that are given by part."""
        ...

    def score_sums(self, network: Any, split: str, rank: int, workers: int) -> Tensor:
        """This worker's share of the sums that `scores` needs for `split`: (k,) float64, zeros for an empty share."""
        ...

    def scores(self, sums: Tensor, split: str) -> dict[str, float]:
        """Figures from the sums over all workers. Empty for an empty split."""
        ...

    def selected(self, scores: Mapping[str, float]) -> float:
        """The figure by which the best checkpoint is chosen; higher is better."""
        ...


@runtime_checkable
class ReadingTask(Protocol):
    """A task that reads its samples from a disk, which may be done ahead and in other processes."""

    read: Callable[[Sequence[int], int], dict[str, NDArray[np.generic]]]
    """Numbers of training samples and a draw -> arrays. Can be pickled."""

    def loaded(self, arrays: dict[str, NDArray[np.generic]], device: torch.device) -> Any:
        """What `read` gave for them -> the batch that `Task.batch` would give."""
        ...
