"""How named losses become one: a coefficient for each, fixed or learned."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.config import StrictConfig
from models.errors import UserError
from models.meltr.config import MELTRConfig


class SingleConfig(StrictConfig):
    """The primary loss alone."""

    name: Literal["single"] = "single"


class SumConfig(StrictConfig):
    """Plain multi-task learning: the sum of all losses."""

    name: Literal["sum"] = "sum"


class WeightedConfig(StrictConfig):
    """Fixed coefficients (CVPR 2023, Table 7); a loss that is not named counts 0."""

    name: Literal["weighted"] = "weighted"
    weights: dict[str, float]


CombinerConfig = Annotated[SingleConfig | SumConfig | WeightedConfig | MELTRConfig, Field(discriminator="name")]


def losses_needed(config: CombinerConfig, names: Sequence[str], primary: str) -> tuple[str, ...]:
    """Those of a task's losses `names` that have to be computed, in their order.

    Raises:
        UserError: as `fixed_coefficients`.
    """
    if isinstance(config, MELTRConfig):
        return tuple(names)
    coefficients = fixed_coefficients(config, names, primary).tolist()
    return tuple(name for name, c in zip(names, coefficients, strict=True) if c)


def fixed_coefficients(config: SingleConfig | SumConfig | WeightedConfig, names: Sequence[str], primary: str) -> Tensor:
    """(T,) float32 coefficients of the losses `names`.

    Raises:
        UserError: a weight for a loss that the task does not have, or no weight that is not zero.
    """
    if isinstance(config, SingleConfig):
        chosen: Mapping[str, float] = {primary: 1.0}
    elif isinstance(config, SumConfig):
        chosen = dict.fromkeys(names, 1.0)
    else:
        chosen = config.weights
        if unknown := [name for name in chosen if name not in names]:
            raise UserError(
                f"combiner.weights.{unknown[0]}: this task has no such loss; its losses are {', '.join(names)}"
            )
        if not any(chosen.values()):
            raise UserError("combiner.weights: every weight is zero; give at least one loss a weight")
    return torch.tensor([float(chosen.get(name, 0.0)) for name in names])
