"""The papers' ablation tables as declared grids, and what is made of them: Markdown, CSV and LaTeX."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from distributed.recipe_file import PathField, load_recipe
from models.config import StrictConfig

TABLES = Path(__file__).parent / "tables"


class ColumnConfig(StrictConfig):
    """A column of figures."""

    name: str
    figure: str
    """`test/NAME` or `validation/NAME`: a score of the chosen checkpoint. `log/NAME`: a figure of metrics.jsonl, its
    mean over the epochs that `last_epochs` says. `seconds_an_epoch`: of training, evaluations included."""
    last_epochs: int = Field(default=1, ge=1)
    digits: int = Field(default=1, ge=0)


class RowConfig(StrictConfig):
    """A row: a variant of the recipe, and what the paper has for it."""

    name: str
    values: dict[str, Any] = {}
    """By dotted recipe key."""
    missing: str | None = None
    """Why the row cannot be run."""
    published: tuple[float | str | None, ...] = ()
    """The paper's figures, one a column."""
    checkpoint: Literal["best", "last"] | None = None
    """Which is scored, if not the table's."""


class TableConfig(StrictConfig):
    """One table of a paper."""

    title: str
    source: str
    difference: str
    """How the published figures' data differs from ours."""
    recipe: PathField
    fixed: dict[str, Any] = {}
    """What all rows have in place of the recipe's values."""
    checkpoint: Literal["best", "last"] = "last"
    seeds: int = Field(default=3, ge=1)
    columns: tuple[ColumnConfig, ...] = Field(min_length=1)
    rows: tuple[RowConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for row in self.rows:
            if row.published and len(row.published) != len(self.columns):
                raise ValueError(
                    f"row {row.name!r} has {len(row.published)} published figures for {len(self.columns)} columns"
                )
        if len({row.name for row in self.rows}) != len(self.rows):
            raise ValueError("two rows have the same name")
        return self


def load_table(name: Path, overrides: Sequence[str] = ()) -> TableConfig:
    """A table of tuning/tables, or of a file. Raises UserError."""
    return load_recipe(name, overrides, TableConfig, TABLES)


Figures = Mapping[str, Sequence[Sequence[float | None]]]
"""By row: for each run (seed) its figures, one a column; None where a run has none."""


def cell(numbers: Sequence[float | None], digits: int) -> str:
    """Mean and, of several, the standard deviation over seeds (n-1); how many are missing, if any are."""
    known = [number for number in numbers if number is not None]
    if not known:
        return "-"
    text = f"{statistics.fmean(known):.{digits}f}"
    if len(known) > 1:
        text += f" ± {statistics.stdev(known):.{digits}f}"
    if len(known) < len(numbers):
        text += f" ({len(known)} of {len(numbers)} runs)"
    return text


def _rows(table: TableConfig, figures: Figures) -> list[list[str]]:
    """Row by row: its name, its figures, the published ones."""
    rows = []
    for row in table.rows:
        runs = figures.get(row.name, [])
        ours = [cell([run[i] for run in runs], column.digits) for i, column in enumerate(table.columns)]
        theirs = [_published(value, column) for value, column in zip(row.published, table.columns, strict=False)]
        rows.append([row.name, *ours, *(theirs or [""] * len(table.columns))])
    return rows


def _published(value: float | str | None, column: ColumnConfig) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.{column.digits}f}"


def _header(table: TableConfig) -> list[str]:
    names = [column.name for column in table.columns]
    return ["", *names, *(f"{name}, published" for name in names)]


def _notes(table: TableConfig) -> list[str]:
    missing = [f"{row.name}: not run; {row.missing}" for row in table.rows if row.missing]
    return [f"Published figures: {table.source}. {table.difference}", *missing]


def markdown(table: TableConfig, figures: Figures, made: str) -> str:
    """`made`: how the figures came about: commands, machine, date, time."""
    header = _header(table)
    lines = [f"# {table.title}", "", made, "", _bar(header), "|" + "---|" * len(header)]
    lines += [_bar(row) for row in _rows(table, figures)]
    lines += ["", *(line for note in _notes(table) for line in (note, ""))]
    return "\n".join(lines).rstrip() + "\n"


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def as_csv(table: TableConfig, figures: Figures) -> str:
    """A line a row and run, with full digits; published figures in lines of their own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "run", *(column.name for column in table.columns)])
    for row in table.rows:
        for number, run in enumerate(figures.get(row.name, [])):
            writer.writerow([row.name, number, *("" if value is None else repr(value) for value in run)])
        if row.published:
            writer.writerow([row.name, "published", *("" if v is None else v for v in row.published)])
    return text.getvalue()


_ESCAPES = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{"}
_ESCAPES |= {"}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "γ": r"$\gamma$"}


def latex_text(text: str) -> str:
    """Plain text as LaTeX has it."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex(table: TableConfig, figures: Figures) -> str:
    """A booktabs table."""
    header = _header(table)
    lines = [r"\begin{table}", r"\centering", f"\\caption{{{latex_text(table.title)}. {latex_text(_notes(table)[0])}}}"]
    lines += [f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(latex_text, header)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(latex_text, row)) + r" \\" for row in _rows(table, figures)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"
