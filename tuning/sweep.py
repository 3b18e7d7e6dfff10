"""Searches a space of recipes with Ray Tune.

    python -m tuning.sweep SWEEP [key=value ...] [--set recipe.key=value ...]
    python -m tuning.sweep --resume NAME [budget.trials=...]

SWEEP is a YAML file or a bare name from tuning/spaces. Everything is checked before anything starts. Ctrl-C, a killed
driver or a lost cluster lose nothing but the work since the last checkpoints: `--resume` goes on, and leaves finished
trials as they are. Results lie in STORAGE/NAME: results.csv, best.yaml, plots/, sweep.html.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from distributed.command import main_of
from distributed.config import Recipe
from distributed.recipe_file import dump_recipe, load_recipe
from models.data.files import atomic_path
from models.errors import UserError
from tuning.config import SweepConfig, base_recipe, check_space, load_sweep
from tuning.finish import finish
from tuning.journal import Journal, Propose
from tuning.progress import LiveTable
from tuning.runner import RECIPE, Runner
from tuning.space import grid, sample

SWEEP = "sweep.yaml"


def sweep(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tuning.sweep", description="Search a space of recipes.")
    parser.add_argument("words", nargs="*", metavar="SWEEP, key=value", help="the sweep; then changes to its own keys")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="a recipe key for all trials")
    parser.add_argument("--resume", metavar="NAME", help="go on with the sweep of this name (or folder)")
    options = parser.parse_args(arguments)
    overrides = [word for word in options.words if "=" in word]
    files = [word for word in options.words if "=" not in word]
    if len(files) > 1 or (not files and options.resume is None):
        raise UserError("name one sweep: a YAML file, or one of tuning/spaces; or give --resume NAME")
    if options.resume is not None:
        config = resumed(options.resume, Path(files[0]) if files else None, overrides, options.set)
    else:
        config = begun(Path(files[0]), overrides, options.set)
    run(config)


def begun(file: Path, overrides: Sequence[str], fixed: Sequence[str]) -> SweepConfig:
    """A new sweep, checked and laid out in its folder.

    Raises:
        UserError: something is wrong with it, or there is one of its name already.
    """
    config = load_sweep(file, overrides, fixed)
    if (config.folder / SWEEP).exists():
        raise UserError(
            f"{config.folder}: there is a sweep of this name; go on with it: python -m tuning.sweep --resume "
            f"{config.folder}, or give this one another name=..."
        )
    check_space(config, file)
    lay_out(config)
    return config


def lay_out(config: SweepConfig) -> None:
    """Writes the base recipe and the sweep itself into the sweep's folder; a base recipe that is there stays in use."""
    kept = config.folder / RECIPE
    recipe = base_recipe(config, kept if kept.exists() else None)
    config.folder.mkdir(parents=True, exist_ok=True)
    for name, model in ((RECIPE, recipe), (SWEEP, config)):  # the sweep last: with it there is a sweep
        with atomic_path(config.folder / name) as temporary:
            temporary.write_text(dump_recipe(model), encoding="utf-8")


def resumed(name: str, file: Path | None, overrides: Sequence[str], fixed: Sequence[str]) -> SweepConfig:
    """A sweep as it began, with another budget or other resources if told so.

    Raises:
        UserError: there is no such sweep, or something else about it has changed.
    """
    folder = Path(name) if (Path(name) / SWEEP).exists() else Path("runs") / name
    if not (folder / SWEEP).exists():
        raise UserError(f"{folder / SWEEP}: no such file; expected the folder of a sweep, or its name below runs/")
    before = load_recipe(folder / SWEEP, [], SweepConfig)
    now = load_sweep(file or folder / SWEEP, overrides, fixed)
    then, today = dict(_leaves(before.identity())), dict(_leaves(now.identity()))
    keys = then.keys() | today.keys()
    changed = sorted(key for key in keys if then.get(key, ...) != today.get(key, ...))
    if changed:
        key = changed[0]
        was, would_be = (repr(leaves[key]) if key in leaves else "nothing" for leaves in (then, today))
        raise UserError(
            f"{folder}: began with {key} = {was}, and would go on with {would_be}"
            + (f" (and {len(changed) - 1} more)" if len(changed) > 1 else "")
            + "; only budget and resources may change. Undo it, or begin another sweep with name=..."
        )
    config = now.model_copy(update={"storage": folder.absolute().parent})
    lay_out(config)  # the folder may have been moved
    return config


def _leaves(value: Any, at: str = "") -> "list[tuple[str, Any]]":
    if isinstance(value, Mapping):
        return [leaf for key, part in value.items() for leaf in _leaves(part, f"{at}.{key}" if at else key)]
    return [(at, value)]


def run(config: SweepConfig) -> None:
    """Runs what the budget allows and has not been run, and writes the results."""
    points = grid({k: p for k, p in config.space.items() if config.searcher.name == "grid" or p.grid is not None})
    base = int(config.base)
    trials = config.budget.trials
    if config.searcher.name == "grid":
        trials = min(trials, len(points) + base)

    def propose(number: int, trial: optuna.Trial) -> dict[str, Any]:
        if number < base:
            return {}
        point = points[(number - base) % len(points)] if points else {}
        return dict(point) if config.searcher.name == "grid" else sample(config.space, trial, point)

    with session(config, trials, propose) as (runner, over):
        finish(config, runner, over)
    if not over:
        print(f"{runner.unfinished()} trials are still to be run: python -m tuning.sweep --resume {config.folder}")
        sys.exit(130)


@contextmanager
def session(config: SweepConfig, trials: int, propose: Propose) -> Iterator[tuple[Runner, bool]]:
    """Runs what is left, under a live table -> the runner, whose journal stays open, and whether all are over."""
    epochs = load_recipe(config.folder / RECIPE, [], Recipe).training.epochs
    with Journal(config.folder, config.mode, config.searcher, config.seed) as journal:
        with LiveTable(config.name, config.metric, config.mode, trials, epochs) as table:
            runner = Runner(config, journal, trials, propose, table)
            over = runner.run()
        print(table.summary())
        yield runner, over


if __name__ == "__main__":
    main_of(sweep)
