"""What a sweep leaves in its folder: results.csv, best.yaml, plots and a page."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from distributed.config import Recipe
from distributed.recipe_file import dump_recipe
from models.data.files import atomic_path
from tuning.records import Mode, Record, best_of

FIXED_COLUMNS = ("trial", "run", "state", "reason", "best", "best_epoch", "epochs", "seconds", "training_seconds")


def table_of(records: Sequence[Record], mode: Mode) -> tuple[list[str], list[list[object]]]:
    """Header and a row a trial: its values by recipe key, and all figures of its best evaluation as `figure:NAME`."""
    keys = list(dict.fromkeys(key for record in records for key in record.values))
    figures = sorted({name for record in records for name in record.figures} - {"epoch", "time"})
    rows: list[list[object]] = []
    for record in records:
        best = record.best(mode)
        row = [record.number, record.name, record.state, record.reason, "" if best is None else best]
        row += [record.figures.get("epoch", ""), record.course[-1][0] if record.course else 0]
        row += [f"{record.seconds:.1f}", f"{record.training_seconds:.1f}"]
        row += [_cell(record.values[key]) if key in record.values else "" for key in keys]
        rows.append([*row, *(record.figures.get(name, "") for name in figures)])
    return [*FIXED_COLUMNS, *keys, *(f"figure:{name}" for name in figures)], rows


def write_csv(path: Path, records: Sequence[Record], mode: Mode) -> None:
    """The table of trials."""
    text = io.StringIO()
    header, rows = table_of(records, mode)
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: object) -> object:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


def write_best(path: Path, records: list[Record], mode: Mode, recipe: Recipe, metric: str) -> None:
    """A recipe that trains the best configuration again. `recipe`: the best trial's own."""
    best = best_of(records, mode)
    if best is None:
        return
    again = recipe.model_copy(update={"name": f"{recipe.name}-best", "storage": recipe.folder.parent.parent})
    header = (
        f"# The best of {len(records)} trials by {metric} ({mode}): trial {best.number}, {best.best(mode)!r}.\n"
        f"# Command:  python -m distributed.train {path}\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(header + dump_recipe(again), encoding="utf-8")
