"""The space of a sweep: what may vary, between which bounds; its samples and its grid."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

import optuna
from pydantic import Field, model_validator

from models.config import StrictConfig

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it tells of every study that it makes
KINDS = ("loguniform", "uniform", "randint", "choice", "grid")


class ParameterConfig(StrictConfig):
    """How one recipe key varies: one of the kinds, and when."""

    loguniform: tuple[float, float] | None = None
    """Between two positive bounds, evenly in the logarithm."""
    uniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None
    """A whole number; both bounds can occur."""
    choice: Annotated[tuple[Any, ...] | None, Field(min_length=1)] = None
    """One of these values."""
    grid: Annotated[tuple[Any, ...] | None, Field(min_length=1)] = None
    """Each of these values, equally often."""
    when: dict[str, Any] = {}
    """The key varies only while other keys of the space, by name, have this value (or one of a list of values)."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len([kind for kind in KINDS if getattr(self, kind) is not None]) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}")
        bounds = self.loguniform or self.uniform or self.randint
        if bounds is not None and bounds[0] >= bounds[1]:
            raise ValueError(f"the lower bound {bounds[0]:g} must be below the upper bound {bounds[1]:g}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"the bounds of loguniform must be positive; found {self.loguniform[0]:g}")
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def logarithmic(self) -> bool:
        """Whether it should be looked at on a logarithmic scale."""
        return self.loguniform is not None

    @property
    def finite(self) -> list[Any] | None:
        """All its values; None where there is no end of them."""
        if self.randint is not None:
            return list(range(self.randint[0], self.randint[1] + 1))
        values = self.choice if self.choice is not None else self.grid
        return list(values) if values is not None else None

    @property
    def extremes(self) -> list[Any]:
        """Values that show whether all of them can be used: both bounds, or every one of a list."""
        return list(self.loguniform or self.uniform or self.randint or self.choice or self.grid or ())

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether `when` is met by the values of the keys above."""
        return all(key in values and values[key] in one_of(wanted) for key, wanted in self.when.items())

    def sample(self, key: str, trial: optuna.Trial) -> Any:
        """A value, drawn by the sampler of the trial's study."""
        bounds = self.loguniform or self.uniform
        if bounds is not None:
            return trial.suggest_float(key, *bounds, log=self.logarithmic)
        if self.randint is not None:
            return trial.suggest_int(key, *self.randint)
        # Optuna's choices are numbers and texts alone; a recipe's may be lists and mappings.
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in self.finite or ()]))


Space = Mapping[str, ParameterConfig]


def one_of(wanted: Any) -> list[Any]:
    """The values that an entry of `when` allows."""
    return wanted if isinstance(wanted, list) else [wanted]


def settled(space: Space, values: Mapping[str, Any]) -> dict[str, ParameterConfig]:
    """What of a space still varies where some keys have these values once and for all."""
    left: dict[str, ParameterConfig] = {}
    for key, parameter in space.items():
        decided = {parent: wanted for parent, wanted in parameter.when.items() if parent in values}
        undecided = {parent: wanted for parent, wanted in parameter.when.items() if parent not in values}
        met = parameter.model_copy(update={"when": decided}).holds(values)
        if key not in values and met and undecided.keys() <= left.keys():
            left[key] = parameter.model_copy(update={"when": undecided})
    return left


def sample(space: Space, trial: optuna.Trial, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for all keys whose conditions hold; those of `given` are taken from there."""
    values: dict[str, Any] = {}
    for key, parameter in space.items():
        if parameter.holds(values):
            values[key] = given[key] if key in given else parameter.sample(key, trial)
    return values


def drawn(space: Space, seed: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """A random sample that has the values of `given`."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return sample(space, study.ask(), given)


def grid(space: Space) -> list[dict[str, Any]]:
    """Every combination of the finite keys of a space whose conditions hold, the last key changing fastest."""

    def extend(points: Iterator[dict[str, Any]], key: str) -> Iterator[dict[str, Any]]:
        parameter = space[key]
        for point in points:
            here = (parameter.finite or []) if parameter.holds(point) else []
            yield from ({**point, key: value} for value in here) if here else (point,)

    points: Iterator[dict[str, Any]] = iter([{}])
    for key in space:
        points = extend(points, key)
    return list(points)


def conditions(space: Space, key: str) -> dict[str, Any]:
    """Values of other keys under which `key` varies."""
    needed: dict[str, Any] = {}
    for parent, wanted in space[key].when.items():
        needed |= conditions(space, parent) | {parent: one_of(wanted)[0]}
    return needed


def probes(space: Space) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(key, value, all values) that must all make valid recipes, if the space is to make any sense."""
    return itertools.chain.from_iterable(
        ((key, value, conditions(space, key) | {key: value}) for value in parameter.extremes)
        for key, parameter in space.items()
    )
