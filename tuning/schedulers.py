"""Ray Tune's schedulers with a memory: a resumed sweep decides as if it had never been interrupted."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from distributed.config import Recipe
from tuning.config import PBTConfig, SweepConfig
from tuning.records import Record, sign
from tuning.space import ParameterConfig, Space

Changed = Callable[[int, dict[str, Any], int], dict[str, Any]]
"""Told a trial's number, its new values, and the epoch of the weights that it goes on from."""
Past = Mapping[int, Sequence[tuple[int, float]]]
"""The course of every trial so far, by number."""


@dataclass(frozen=True, eq=False)
class _Over:
    """A trial of the past, as far as schedulers look at it."""

    trial_id: str
    config: Mapping[str, int]


class _Remembering:
    """Tells a scheduler what happened before it was made, and keeps it off the base recipe."""

    past: Past
    spared: int | None

    def remember(self, past: Past, spared: int | None) -> "_Remembering":
        """`past`: of trials that are over or go on now; `spared`: the number of a trial that is never stopped."""
        self.past, self.spared = past, spared
        return self

    def replay(self, numbers: Sequence[int]) -> None:
        """The courses of trials that are over."""
        for number in numbers:
            self.on_trial_add(None, _Over(f"past-{number}", {"number": number}))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)  # type: ignore[misc]
        for epoch, value in self.past.get(trial.config["number"], ()):
            self._recall(trial, {"epoch": epoch, "value": value})

    def _recall(self, trial: Any, result: dict[str, Any]) -> None:
        """A result on which it has been decided already."""
        super().on_trial_result(None, trial, result)  # type: ignore[misc]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]
        return TrialScheduler.CONTINUE if trial.config["number"] == self.spared else decision


class ASHA(_Remembering, AsyncHyperBandScheduler):
    """Asynchronous successive halving."""


class MedianStopping(_Remembering, MedianStoppingRule):
    """Stops what is below the median of the others' running averages."""

    def _recall(self, trial: Any, result: dict[str, Any]) -> None:
        self._results[trial].append(result)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self._is_news(trial, result):
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)
        self._stopped_trials.discard(trial)  # Tune's expects no more of what it stopped, and the base recipe goes on
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._is_news(trial, result):
            self._recall(trial, result)

    def _is_news(self, trial: Any, result: dict[str, Any]) -> bool:
        """Tune's would count a result twice that is told again, and fall over one without a value."""
        known = self._results.get(trial)
        return "value" in result and (not known or known[-1]["epoch"] < result["epoch"])

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        """Tune's would pause the run in favour of those that wait, and start it anew later."""
        return TrialScheduler.CONTINUE


class PopulationBased(PopulationBasedTraining):
    """Tune's, whose changed values stay within the space's bounds, and are written down before they count."""

    def __init__(self, space: Space, config: PBTConfig, seed: int, changed: Changed) -> None:
        """`changed` gives a trial's new Tune configuration."""
        super().__init__(
            time_attr="epoch",
            metric="value",
            mode="max",
            perturbation_interval=config.every_epochs,
            hyperparam_mutations={"values": {key: [0] for key in space}},
            quantile_fraction=config.quantile,
            log_config=False,
        )
        self.space, self.resample, self.changed = space, config.resample, changed
        self.random = random.Random(seed)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Tune refuses it beside a search algorithm, lest that should learn from values that change: ours does not.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)  # type: ignore[arg-type]

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        values = explore(trial_to_clone.config["values"], self.space, self.resample, self.random)
        since = int(self._trial_state[trial_to_clone].last_train_time)
        return self.changed(trial.config["number"], values, since), {}


def explore(values: Mapping[str, Any], space: Space, resample: float, source: random.Random) -> dict[str, Any]:
    """Each value drawn anew, or multiplied with 0.8 or 1.2 within its bounds; of a list, one of its neighbours."""
    return {key: _explored(space[key], value, source.random() < resample, source) for key, value in values.items()}


def _explored(parameter: ParameterConfig, value: Any, anew: bool, source: random.Random) -> Any:
    bounds = parameter.loguniform or parameter.uniform or parameter.randint
    if anew or (bounds is None and value not in (parameter.finite or [])):
        sampler = optuna.samplers.RandomSampler(seed=source.randrange(2**32))
        return parameter.sample("value", optuna.create_study(sampler=sampler).ask())
    if bounds is None:
        options = parameter.finite or []
        place = options.index(value) + source.choice((-1, 1))
        return options[min(max(place, 0), len(options) - 1)]
    share = source.choice((-0.2, 0.2))
    step = value * share
    if parameter.randint is not None:
        step = round(step) or (1 if share > 0 else -1)  # else a small number would never change
    return min(max(value + step, bounds[0]), bounds[1])


def scheduler_of(
    config: SweepConfig,
    recipe: Recipe,
    records: Sequence[Record],
    changed: Changed,
) -> TrialScheduler:
    """The scheduler of a sweep with these trials behind it. It maximises `value`."""
    past = {r.number: [(epoch, sign(config.mode) * value) for epoch, value in r.course] for r in records}
    over = [r.number for r in records if r.state != "running"]
    spared = 0 if config.base else None
    scheduler = config.scheduler
    if isinstance(config.searcher, PBTConfig):
        return PopulationBased(config.space, config.searcher, config.seed + len(records), changed)
    if scheduler.name == "asha":
        epochs = recipe.training.epochs
        asha = ASHA(
            time_attr="epoch",
            metric="value",
            mode="max",
            grace_period=min(scheduler.grace_epochs, epochs),
            max_t=max(epochs, 2),
            reduction_factor=scheduler.reduction,
            stop_last_trials=False,
        )
        asha.remember(past, spared).replay(over)
        return asha
    if scheduler.name == "median":
        median = MedianStopping(
            time_attr="epoch",
            metric="value",
            mode="max",
            grace_period=scheduler.grace_epochs,
            min_samples_required=scheduler.min_trials,
            hard_stop=True,
        )
        median.remember(past, spared).replay(over)
        return median
    return FIFOScheduler()
