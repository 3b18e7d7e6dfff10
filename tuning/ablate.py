"""Runs the papers' ablation tables, with several seeds, and writes them beside the published figures.

    python -m tuning.ablate TABLE [TABLE ...] [--seeds 3] [--set recipe.key=value ...] [--to FOLDER]

TABLE is a bare name from tuning/tables, or a YAML file. The same command again goes on where it was interrupted, and
runs that several tables share are made once. Each table is written as Markdown, CSV and LaTeX.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from distributed.command import main_of
from distributed.config import Recipe
from distributed.metrics_file import read_metrics
from distributed.progress import duration
from distributed.recipe_file import load_recipe
from models.data.files import atomic_path
from models.errors import UserError
from tuning.config import BudgetConfig, ResourcesConfig, SweepConfig, base_recipe, overrides_of, set_values
from tuning.held_out import scores_of_run
from tuning.records import Record
from tuning.runner import Runner
from tuning.sweep import lay_out, session
from tuning.tables import ColumnConfig, RowConfig, TableConfig, as_csv, latex, load_table, markdown

PLAN = "plan.json"
FIRST_SEED = 101


def ablate(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tuning.ablate", description="Run the papers' ablation tables.")
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE")
    parser.add_argument("--seeds", type=int, help="runs of every row (default: what the table says)")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="a recipe key for all rows")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    parser.add_argument("--to", type=Path, help="where the tables go (default: the ablation's folder)")
    parser.add_argument("--concurrent", type=int, help="runs at a time (default: as many as the cluster holds)")
    parser.add_argument("--workers", type=int, default=1, help="of a run (default: 1; the numbers are the same)")
    options = parser.parse_args(arguments)
    for option in ("seeds", "concurrent", "workers"):
        number = getattr(options, option)
        if number is not None and number < 1:
            raise UserError(f"--{option} should be at least 1; found {number}")
    tables = {path.stem: load_table(path) for path in options.tables}
    if len({table.recipe for table in tables.values()}) > 1:
        raise UserError("these tables are of different recipes: run them one command each")
    fixed = set_values(options.set)
    recipe = next(iter(tables.values())).recipe
    config = SweepConfig(
        name=f"ablate-{recipe.stem}",
        recipe=recipe,
        space={},
        base=False,
        storage=options.storage,
        budget=BudgetConfig(concurrent=options.concurrent),
        resources=ResourcesConfig(workers=options.workers),
    )
    _check_rows(config, tables, fixed)
    wanted = {
        name: {row.name: cells_of(table, row, options.seeds, fixed) for row in table.rows if row.missing is None}
        for name, table in tables.items()
    }
    run_tables(config, tables, wanted, options.to, " ".join(["python -m tuning.ablate", *arguments]))


def _check_rows(config: SweepConfig, tables: Mapping[str, TableConfig], fixed: Mapping[str, Any]) -> None:
    """Raises UserError for a row whose values the recipe refuses."""
    base_recipe(config)
    for name, table in tables.items():
        for row in table.rows:
            if row.missing is None:
                try:
                    load_recipe(config.recipe, overrides_of({**table.fixed, **row.values, **fixed}), Recipe)
                except UserError as error:
                    raise UserError(f"{name}, row {row.name!r}: {str(error).partition(': ')[2]}") from None


def cells_of(table: TableConfig, row: RowConfig, seeds: int | None, fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The values of a row's runs, one a seed."""
    values = {**table.fixed, **row.values, **fixed}
    return [values | {"seed": FIRST_SEED + number} for number in range(seeds or table.seeds)]


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def run_tables(
    config: SweepConfig,
    tables: Mapping[str, TableConfig],
    wanted: Mapping[str, Mapping[str, list[dict[str, Any]]]],
    to: Path | None,
    command: str,
) -> None:
    """Runs what is wanted (by table and row) and has not been run, then writes the tables."""
    lay_out(config)
    cells = [values for rows in wanted.values() for row in rows.values() for values in row]
    plan = _extended_plan(config.folder / PLAN, cells)

    def propose(number: int, trial: optuna.Trial) -> dict[str, Any]:
        return plan[number]

    with session(config, len(plan), propose) as (runner, over):
        records = {_key(plan[record.number]): record for record in runner.records()}
        folder = to or config.folder / "tables"
        for name, table in tables.items():
            runs = {row: [records[_key(v)] for v in cells if _key(v) in records] for row, cells in wanted[name].items()}
            write_table(folder / name, table, runs, runner, command)
            print(f"{name}: {folder / name}.md, .csv, .tex")
    if not over:
        print(f"{runner.unfinished()} runs are still to be made: give the same command again")
        sys.exit(130)


def _extended_plan(path: Path, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which values the run of each number has: those of earlier commands first."""
    plan: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    known = {_key(values) for values in plan}
    for values in cells:
        if _key(values) not in known:
            known.add(_key(values))
            plan.append(values)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    return plan


def write_table(path: Path, table: TableConfig, runs: Mapping[str, list[Record]], runner: Runner, command: str) -> None:
    """Writes a table in its three forms."""
    rows = {row.name: row for row in table.rows}
    figures = {
        name: [
            [_figure(runner, record, column, rows[name].checkpoint or table.checkpoint) for column in table.columns]
            for record in records
        ]
        for name, records in runs.items()
    }
    every = [record for records in runs.values() for record in records]
    seconds = sum(record.seconds for record in every)
    failed = [f"run {record.number} failed: {record.reason}" for record in every if record.state == "failed"]
    seeds = max((len(records) for records in runs.values()), default=0)
    spread = f"{seeds} seeds a row, mean ± standard deviation" if seeds > 1 else "1 seed a row"
    made = (
        f"`{command}`\n\n{len(every)} runs ({spread}), {duration(seconds)} of "
        f"runs in all with Ray's start, on {runner.journal.machine}, {time.strftime('%Y-%m-%d')}."
    )
    texts = {".md": markdown(table, figures, "\n\n".join([made, *failed])), ".csv": as_csv(table, figures)}
    for suffix, text in {**texts, ".tex": latex(table, figures)}.items():
        with atomic_path(path.with_name(path.name + suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _figure(runner: Runner, record: Record, column: ColumnConfig, which: str) -> float | None:
    """A run's figure for a column; None where it has none."""
    if record.state != "finished":
        return None
    kind, _, name = column.figure.partition("/")
    if kind in ("test", "validation"):
        return scores_of_run(runner.recipe(record.number, record.values), which, [kind]).get(column.figure)
    epochs = [r for r in read_metrics(record.run / "metrics.jsonl") if "epoch" in r]
    if column.figure == "seconds_an_epoch":
        # Not of its training_seconds, which begin anew where a run was resumed.
        last, batch = epochs[-1], runner.recipe(record.number, record.values).training.batch_size
        return float(last["step"]) / float(last["epoch"]) * batch / float(last["samples_per_second"])
    values = [float(r[name]) for r in epochs[-column.last_epochs :] if name in r]
    return sum(values) / len(values) if values else None


if __name__ == "__main__":
    main_of(ablate)
