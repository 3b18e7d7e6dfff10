"""The learning rate: warm-up by hand, the plateau rule beside torch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.optim.schedule import PlateauState, ScheduleConfig, after_epoch, rate_factor


@settings(deadline=None)
@given(
    # Few distinct values: ties and long plateaus are common.
    losses=st.lists(st.integers(-3, 12).map(lambda n: n / 4), max_size=80),
    patience=st.sampled_from([1, 3, 10]),
    factor=st.sampled_from([0.5, 0.1, 1.0]),
)
def test_plateau_is_torchs(losses: list[float], patience: int, factor: float) -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=1.0)
    if factor < 1:
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, factor=factor, patience=patience, threshold=0, eps=0
        )
    config, state = ScheduleConfig(plateau_epochs=patience, plateau_factor=factor), PlateauState()
    for loss in losses:
        state = after_epoch(config, state, loss)
        if factor < 1:
            theirs.step(loss)
        assert rate_factor(config, state, 0, 100) == optimiser.param_groups[0]["lr"]


def test_halves_after_ten_epochs_without_improvement() -> None:
    config, state = ScheduleConfig(), PlateauState()
    state = after_epoch(config, state, 1.0)
    seen = []
    for _ in range(22):
        state = after_epoch(config, state, 1.0)
        seen.append(rate_factor(config, state, 123, 100))
    assert seen == [1.0] * 10 + [0.5] * 11 + [0.25]
    assert after_epoch(config, state, 0.9) == PlateauState(scale=0.25, best=0.9)


def test_warm_up() -> None:
    config = ScheduleConfig(warmup_steps=9)
    factors = [rate_factor(config, PlateauState(), step, 100) for step in range(12)]
    assert factors == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0])
    assert rate_factor(config, PlateauState(scale=0.5), 0, 100) == pytest.approx(0.05)
    assert rate_factor(ScheduleConfig(), PlateauState(), 0, 100) == 1
    assert rate_factor(ScheduleConfig(warmup_steps=2, warmup_from=0.5), PlateauState(), 1, 100) == pytest.approx(0.75)


def test_linear_decay() -> None:
    config = ScheduleConfig(warmup_steps=2, linear_decay=True)
    factors = [rate_factor(config, PlateauState(scale=0.5), step, 5) for step in range(5)]
    assert factors == pytest.approx([0.05, 0.22, 0.3, 0.2, 0.1])


def test_state_goes_through_a_file() -> None:
    state = PlateauState(scale=0.25, best=0.9, epochs_without=3)
    assert PlateauState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize(
    "values", [{"warmup_steps": -1}, {"warmup_from": 0.0}, {"plateau_epochs": 0}, {"plateau_factor": 1.5}], ids=str
)
def test_configuration(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScheduleConfig.model_validate(values)
