"""The file of a sweep, checked against the recipe that it varies before anything starts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from distributed.config import Recipe
from distributed.recipe_file import PathField, find_recipe, load_recipe
from distributed.recipe_yaml import YamlError, parse_yaml
from models.config import StrictConfig
from models.errors import UserError
from tuning.records import Mode
from tuning.space import ParameterConfig, drawn, one_of, probes, settled

COMBINATIONS = 50
"""How many are tried before a value counts as wrong in all of them."""
SPACES = Path(__file__).parent / "spaces"
MUTABLE = ("optimiser.eta", "combiner.gamma", "combiner.rate", "training.label_smoothing")
"""What may change while a run is under way: rates and weights, which no part of its state depends on."""


class RandomSearchConfig(StrictConfig):
    """Independent samples; `grid` keys take their values in turn."""

    name: Literal["random"] = "random"


class GridSearchConfig(StrictConfig):
    """Every combination; `budget.trials` only where it is smaller."""

    name: Literal["grid"] = "grid"


class TPEConfig(StrictConfig):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011)."""

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(default=8, ge=1)
    """Random samples before it begins to learn."""


class PBTConfig(StrictConfig):
    """Population-based training (Jaderberg et al. 2017): `budget.trials` runs, of which the worst go on from the best
    ones' checkpoints under changed values."""

    name: Literal["pbt"] = "pbt"
    every_epochs: int = Field(default=5, ge=1)
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """The share of runs that is replaced, and the share that is copied."""
    resample: float = Field(default=0.25, ge=0, le=1)
    """How often a value is drawn anew instead of multiplied with 0.8 or 1.2."""


class ASHAConfig(StrictConfig):
    """Asynchronous successive halving (Li et al. 2020)."""

    name: Literal["asha"] = "asha"
    grace_epochs: int = Field(default=10, ge=1)
    """No run is stopped before."""
    reduction: float = Field(default=3, gt=1)
    """One in so many goes on from rung to rung."""


class MedianConfig(StrictConfig):
    """Stops a run that is worse than the median of the running averages of the others."""

    name: Literal["median"] = "median"
    grace_epochs: int = Field(default=10, ge=1)
    min_trials: int = Field(default=3, ge=1)


class NoSchedulerConfig(StrictConfig):
    """Every run goes to its end."""

    name: Literal["none"] = "none"


SearcherConfig = Annotated[RandomSearchConfig | GridSearchConfig | TPEConfig | PBTConfig, Field(discriminator="name")]
SchedulerConfig = Annotated[ASHAConfig | MedianConfig | NoSchedulerConfig, Field(discriminator="name")]


class BudgetConfig(StrictConfig):
    """How much may be spent."""

    trials: int = Field(default=16, ge=1)
    hours: float | None = Field(default=None, gt=0)
    """After so long the trials that still run are halted; resuming goes on with them."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time; default: as many as the cluster holds."""
    retries: int = Field(default=1, ge=0)
    """How often a trial that died starts again from its newest checkpoint, beyond what Ray Train does by itself."""


class ResourcesConfig(StrictConfig):
    """What a trial takes; left out, what the recipe says. A quarter of a GPU a worker lets four trials share one."""

    workers: int | None = Field(default=None, ge=1)
    cpus_per_worker: float | None = Field(default=None, gt=0)
    gpus_per_worker: float | None = Field(default=None, ge=0)


class SweepConfig(StrictConfig):
    """A sweep: a base recipe, what varies in it, and how the search goes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    recipe: PathField
    """A recipe file, or the name of one in distributed/recipes."""
    fixed: dict[str, Any] = {}
    """What every trial has in place of the recipe's values, by dotted key."""
    space: dict[str, ParameterConfig] = {}
    metric: str = "selected"
    """A figure of the validation split, by its name in metrics.jsonl; `selected` is what the task itself goes by."""
    mode: Mode = "max"
    base: bool = True
    """Whether trial 0 is the base recipe itself, for comparison; no scheduler stops it."""
    seed: int = Field(default=0, ge=0)
    """Of the search. Trial number n draws the same values whatever happened in between."""
    storage: PathField = Path("runs")
    searcher: SearcherConfig = RandomSearchConfig()
    scheduler: SchedulerConfig = NoSchedulerConfig()
    budget: BudgetConfig = BudgetConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        above: list[str] = []
        for key, parameter in self.space.items():
            for parent, wanted in parameter.when.items():
                if parent not in above:
                    raise ValueError(f"space: {key!r} depends on {parent!r}, which must be a key of the space above it")
                if not any(value in (self.space[parent].finite or ()) for value in one_of(wanted)):
                    raise ValueError(f"space: {key!r} depends on {parent!r} being {wanted!r}, which it never is")
            if key in self.fixed:
                raise ValueError(f"{key!r} is in fixed and in space: leave it out of one")
            if self.searcher.name == "grid" and parameter.finite is None:
                raise ValueError(f"space: {key!r} is {parameter.kind}, which searcher.name='grid' cannot go through")
            if self.searcher.name in ("tpe", "pbt") and parameter.kind == "grid":
                raise ValueError(
                    f"space: {key!r} is a grid, which searcher.name={self.searcher.name!r} does not go "
                    "through; use choice"
                )
            if hidden := [name for name in (*self.fixed, *above) if name.startswith(f"{key}.")]:
                raise ValueError(
                    f"space: {key!r} replaces {hidden[0]!r} with all else below it; leave that out, or put "
                    "it below in space"
                )
            if self.searcher.name == "pbt" and parameter.when:
                raise ValueError(f"space: {key!r} has a condition, which searcher.name='pbt' does not look at")
            if self.searcher.name == "pbt" and key not in MUTABLE:
                raise ValueError(
                    f"space: {key!r} cannot change while a run is under way, as searcher.name='pbt' has "
                    f"it; those that can: {', '.join(MUTABLE)}"
                )
            above.append(key)
        if self.searcher.name == "pbt":
            if self.scheduler.name != "none":
                raise ValueError("searcher.name='pbt' decides by itself which runs go on: set scheduler.name=none")
            if self.base or self.budget.trials < 2:
                raise ValueError("searcher.name='pbt' needs base=false and at least 2 budget.trials")
        return self

    @property
    def folder(self) -> Path:
        """Where the sweep lives; its trials' runs are below."""
        return self.storage.absolute() / self.name

    def identity(self) -> dict[str, Any]:
        """What may not change when a sweep is resumed."""
        return self.model_dump(mode="json", exclude={"storage", "budget", "resources"})


def load_sweep(path: Path, overrides: Sequence[str], fixed: Sequence[str]) -> SweepConfig:
    """Reads the file of a sweep. `overrides` change its own keys, `fixed` (key=value) those of its recipe.

    Raises:
        UserError: one line for whatever is wrong with it.
    """
    config = load_recipe(path, overrides, SweepConfig, SPACES)
    values = set_values(fixed)
    space = settled(config.space, values)
    if not space:
        raise UserError(
            f"{find_recipe(path, SPACES)}: the space is empty: name at least one recipe key below `space` that --set "
            "leaves free"
        )
    if not values:
        return config
    changed = {
        **config.model_dump(),
        "fixed": config.fixed | values,
        "space": {k: p.model_dump() for k, p in space.items()},
    }
    return SweepConfig.model_validate(changed)


def set_values(texts: Sequence[str]) -> dict[str, Any]:
    """What `--set key=value` says, by key. Raises UserError."""
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UserError(f"--set: expected dotted.key=value, found {text!r}")
        try:
            values[key], _ = parse_yaml(value)
        except YamlError as error:
            raise UserError(f"--set: {key!r}: {error}; found {value!r}") from error
    return values


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """`dotted.key=value` as the command line has it."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def base_recipe(config: SweepConfig, path: Path | None = None) -> Recipe:
    """The recipe that all trials start from, in the sweep's folder. `path`: where it is read, if not at its source.

    Raises:
        UserError: the recipe is wrong, or `fixed` or `resources` do not go with it.
    """
    return load_recipe(path or config.recipe, overrides_of(_shared(config)), Recipe)


def _shared(config: SweepConfig) -> dict[str, Any]:
    """What all trials have in place of the recipe's values."""
    resources = {f"scaling.{key}": value for key, value in config.resources.model_dump().items() if value is not None}
    own = {"name": config.name, "storage": str(config.folder), "tracking.group": config.name}
    return {**config.fixed, **resources, **own}


def check_space(config: SweepConfig, file: Path) -> None:
    """Tries the bounds of every key in the recipe.

    Raises:
        UserError: a key that the recipe does not have, or a value that it refuses; names the file and line.
    """
    base_recipe(config)
    try:
        _, lines = parse_yaml(find_recipe(file, SPACES).read_text(encoding="utf-8-sig"))
    except OSError:
        lines = {}

    def problem_of(values: Mapping[str, Any]) -> UserError | None:
        try:
            load_recipe(config.recipe, [*overrides_of(_shared(config)), *overrides_of(values)], Recipe)
        except UserError as error:
            return error
        return None

    for key, value, values in probes(config.space):
        # A value may be right beside some values of the other keys alone.
        beside = (drawn(config.space, seed, values) for seed in range(COMBINATIONS))
        error = problem_of(values)
        if error is not None and all(problem_of(others) is not None for others in beside):
            line = lines.get(("space", key))
            place = f"{find_recipe(file, SPACES)}:{line}" if line else str(file)
            problem = str(error).partition(": ")[2]
            raise UserError(f"{place}: space: {key!r} = {json.dumps(value)}: {problem}") from None
