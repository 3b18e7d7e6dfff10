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

FIXED_COLUMNS = ("trial", "run", "state", "reason", "best", "best_epoch", "epochs", "seconds")


def write_csv(path: Path, records: Sequence[Record], mode: Mode) -> None:
    """A row a trial: its values by recipe key, and all figures of its best evaluation as `figure:NAME`."""
    keys = list(dict.fromkeys(key for record in records for key in record.values))
    figures = sorted({name for record in records for name in record.figures})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIXED_COLUMNS, *keys, *(f"figure:{name}" for name in figures)])
    for record in records:
        best = record.best(mode)
        row = [record.number, record.name, record.state, record.reason, "" if best is None else repr(best)]
        row += [record.figures.get("epoch", ""), record.course[-1][0] if record.course else 0, f"{record.seconds:.1f}"]
        row += [_cell(record.values.get(key, "")) for key in keys]
        writer.writerow([*row, *(record.figures.get(name, "") for name in figures)])
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: object) -> object:
    return value if isinstance(value, str | int | float) else json.dumps(value)


def write_best(path: Path, records: list[Record], mode: Mode, recipe: Recipe, metric: str) -> None:
    """A recipe that trains the best configuration again. `recipe`: the best trial's own."""
    best = best_of(records, mode)
    if best is None:
        return
    again = recipe.model_copy(update={"name": f"{recipe.name}-best", "storage": recipe.storage.parent})
    header = (
        f"# The best of {len(records)} trials by {metric} ({mode}): trial {best.number}, {best.best(mode)!r}.\n"
        f"# Command:  python -m distributed.train {path}\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(header + dump_recipe(again), encoding="utf-8")
