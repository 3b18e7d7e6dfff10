"""The learning rate: warm-up, then halved when the training loss stops improving, or falling linearly to zero."""

from pydantic import Field

from models.config import StrictConfig


class ScheduleConfig(StrictConfig):
    """Defaults are the published ones: no warm-up, halve after 10 epochs without a better training loss."""

    warmup_steps: int = Field(default=0, ge=0)
    warmup_from: float = Field(default=0.1, gt=0, le=1)
    """The share of the rate that warm-up starts from."""
    plateau_epochs: int = Field(default=10, ge=1)
    plateau_factor: float = Field(default=0.5, gt=0, le=1)
    """1 switches the plateau rule off."""
    linear_decay: bool = False
    """Whether the rate also falls linearly, to zero at the end of the run (MELTR's schedule)."""


class PlateauState(StrictConfig):
    """What the plateau rule remembers; part of every checkpoint."""

    scale: float = 1.0
    best: float | None = None
    epochs_without: int = 0


def after_epoch(config: ScheduleConfig, state: PlateauState, loss: float) -> PlateauState:
    """The state after an epoch with mean training loss `loss`."""
    if state.best is None or loss < state.best:
        return PlateauState(scale=state.scale, best=loss)
    waited = state.epochs_without + 1
    if waited <= config.plateau_epochs:
        return PlateauState(scale=state.scale, best=state.best, epochs_without=waited)
    return PlateauState(scale=state.scale * config.plateau_factor, best=state.best)


def rate_factor(config: ScheduleConfig, state: PlateauState, step: int, total: int) -> float:
    """What the base rate is multiplied with at `step` (counted from 0) of `total`."""
    left = 1 - step / total if config.linear_decay else 1.0
    if step >= config.warmup_steps:
        return state.scale * left
    return state.scale * left * (config.warmup_from + (1 - config.warmup_from) * step / config.warmup_steps)
