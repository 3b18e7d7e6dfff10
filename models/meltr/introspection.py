"""What a trained loss network makes of its losses, and what a run recorded of them (CVPR 2023, Figures 3 to 7).

Shape legend: T losses (tasks), n values of a grid, E epochs. M is the unified loss, c_t = dM/dl_t.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.meltr.transformer import LossTransformer, unified_and_coefficients


def marginal(network: nn.Module, mean_losses: Tensor, task: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """M and dM/dl_task as one loss takes each of `values` and the others keep their means (Figures 3 and 7).

    Args:
        network: a loss network of T tasks.
        mean_losses: (T,).
        task: which loss moves.
        values: (n,); the paper's go from 0 to 3.

    Returns:
        M (n,) and dM/dl_task (n,), in the dtype and on the device of the network.
    """
    losses = _around(network, mean_losses, len(values))
    losses[:, task] = values.to(losses)
    unified, coefficients = unified_and_coefficients(network, losses)
    return unified, coefficients[:, task]


def surface(network: nn.Module, mean_losses: Tensor, first: int, second: int, values: Tensor) -> Tensor:
    """M over two losses, the others at their means (Figure 3).

    Args:
        network: a loss network of T tasks.
        mean_losses: (T,).
        first, second: the two losses; ValueError if they are one.
        values: (n,), for both losses.

    Returns:
        (n, n): entry (i, j) is M where the first loss is values[i] and the second values[j].
    """
    if first == second:
        raise ValueError(f"a surface needs two losses, not loss {first} twice")
    losses = _around(network, mean_losses, len(values) ** 2)
    losses[:, (first, second)] = torch.cartesian_prod(values, values).to(losses)
    with torch.no_grad():
        unified: Tensor = network(losses)
    return unified.view(len(values), len(values))


def without(network: nn.Module, part: Literal["task", "value"]) -> LossTransformer:
    """A copy of the network whose tokens lack the task embedding, or the embedding of loss values (Figure 5).

    Tokens are the sum of both, so the part is left out by setting it to zero; nothing is trained again, unlike in the
    ablation of Table 10. Without `value` the tokens do not know the losses: M is a constant and every dM/dl_t is zero.
    (`form="task_only"` of the configuration is another thing: there the task embedding is multiplied by the value.)

    Raises:
        ValueError: the network's tokens are not the sum of both embeddings.
    """
    if not isinstance(network, LossTransformer) or network.config.form != "transformer":
        raise ValueError("only the loss network of form 'transformer' has both embeddings")
    rest = copy.deepcopy(network)
    left_out = [rest.task_embedding] if part == "task" else [rest.value_out]
    with torch.no_grad():
        for parameter in nn.ModuleList(left_out).parameters():
            parameter.zero_()
    return rest


@dataclass(frozen=True)
class EpochFigures:
    """Recorded figures by epoch; NaN where an epoch has none of a name. All tensors are (E, T) float64."""

    epochs: tuple[int, ...]
    """The number of each epoch, as recorded, rising."""
    mean: Tensor
    low: Tensor
    high: Tensor
    count: Tensor
    """How many figures the others are taken over."""
    left_out: int
    """Figures that were not finite, which count nowhere."""

    def overall(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, lowest and highest figure over all epochs, each (T,); NaN where there is none at all."""
        mean = (self.mean.nan_to_num() * self.count).sum(0) / self.count.sum(0)
        low = self.low.nan_to_num(nan=torch.inf).amin(0)
        high = self.high.nan_to_num(nan=-torch.inf).amax(0)
        return mean, low.where(low.isfinite(), torch.nan), high.where(high.isfinite(), torch.nan)


def by_epoch(records: Sequence[Mapping[str, Any]], names: Sequence[str], prefix: str) -> EpochFigures:
    """The figures `prefix/NAME` of a run's records, gathered by epoch (Figure 4: mean dM/dl_t; Figure 6: ranges).

    A record's `epoch` says where it belongs; one without belongs to the epoch of the next record that has one (a run
    may say `epoch` only as each ends), and after the last of them to an epoch that has not ended.

    Args:
        records: in the order of their steps. Numbers may be the strings "NaN", "Infinity" and "-Infinity".
        names: the T losses.
        prefix: what the figure is, such as `loss` or `coefficient`.

    Raises:
        UserError: a figure is no number, or no record has any.
    """
    gathered: dict[int, list[list[float]]] = {}
    left_out = 0
    for record, epoch in zip(records, _epochs(records), strict=True):
        for t, name in enumerate(names):
            key = f"{prefix}/{name}"
            if key not in record:
                continue
            figure = _number(record, key)
            columns = gathered.setdefault(epoch, [[] for _ in names])
            if torch.inf > figure > -torch.inf:
                columns[t].append(figure)
            else:
                left_out += 1
    if not gathered:
        raise UserError(
            f"no record has a figure {prefix}/{names[0]}; expected them among the run's metrics: log more often with "
            "training.log_every"
        )
    epochs = tuple(sorted(gathered))
    rows = [gathered[epoch] for epoch in epochs]

    def table(summary: Any) -> Tensor:
        cells = [[summary(column) if column else torch.nan for column in row] for row in rows]
        return torch.tensor(cells, dtype=torch.float64)

    count = torch.tensor([[len(column) for column in row] for row in rows], dtype=torch.float64)
    return EpochFigures(epochs, table(lambda c: sum(c) / len(c)), table(min), table(max), count, left_out)


def _around(network: nn.Module, mean_losses: Tensor, points: int) -> Tensor:
    """(points, T) copies of the means, as the network takes them."""
    like = next(network.parameters())
    return mean_losses.to(like).detach().repeat(points, 1)


def _epochs(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """The epoch of every record."""
    found: list[int] = []
    waiting = last = 0
    for record in records:
        waiting += 1
        if "epoch" in record:
            last = int(_number(record, "epoch", int))
            found += [last] * waiting
            waiting = 0
    return found + [last + 1] * waiting


def _number(record: Mapping[str, Any], key: str, kind: Callable[[Any], float] = float) -> float:
    try:
        return kind(record[key])
    except (TypeError, ValueError, OverflowError):
        value = str(record[key])[:40]
        raise UserError(
            f"step {record.get('step')}: {key} is {value!r}, expected a number; delete the record"
        ) from None
