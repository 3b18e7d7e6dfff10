"""The papers' tables: figures and their spread, the three forms, rows without runs, runs that tables share."""

import csv
import io
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UserError
from tuning.ablate import PLAN, _extended_plan, cells_of
from tuning.tables import Figures, RowConfig, TableConfig, as_csv, cell, latex, latex_text, load_table, markdown

numbers = st.floats(-1e4, 1e4)


@given(st.lists(numbers, min_size=2, max_size=6), st.integers(0, 4))
def test_cell_has_mean_and_sample_deviation(values: list[float], digits: int) -> None:
    mean, deviation = cell(values, digits).split(" ± ")
    assert float(mean) == pytest.approx(sum(values) / len(values), abs=0.51 * 10**-digits)
    expected = math.sqrt(sum((value - statistics.fmean(values)) ** 2 for value in values) / (len(values) - 1))
    assert float(deviation) == pytest.approx(expected, abs=0.51 * 10**-digits)
    assert len(mean.partition(".")[2]) == digits


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [
        ([1.0, 3.0], 1, "2.0 ± 1.4"),  # n-1: with n it would be 1.0
        ([1.0, 2.0, 3.0], 2, "2.00 ± 1.00"),
        ([12.34], 1, "12.3"),
        ([12.34], 0, "12"),
        ([None, 1.0, 3.0], 1, "2.0 ± 1.4 (2 of 3 runs)"),
        ([None, 1.0], 1, "1.0 (1 of 2 runs)"),
        ([None, None], 1, "-"),
        ([], 1, "-"),
    ],
)
def test_cell(values: list[float | None], digits: int, text: str) -> None:
    assert cell(values, digits) == text


VALUES: dict[str, Any] = {
    "title": "Losses & weights_100%",
    "source": "A paper, Table 1",
    "difference": "Other data.",
    "recipe": "digits_meltr",
    "fixed": {"training.epochs": 4},
    "columns": [
        {"name": "R@1|a", "figure": "test/r1"},
        {"name": "seconds", "figure": "seconds_an_epoch", "digits": 0},
    ],
    "rows": [
        {"name": "|M - ΣL|, γ", "values": {"combiner.gamma": 1.0}, "published": [12.25, "n/a"]},
        {"name": "plain"},
        {"name": "theirs", "missing": "the weights are not public", "published": [50, None]},
    ],
}
FIGURES: Figures = {"|M - ΣL|, γ": [[1.0, 10.0], [3.0, 20.0], [2.0, None]], "plain": [[0.123456789, 4.4]]}


@pytest.fixture
def table(tmp_path: Path) -> TableConfig:
    return written(tmp_path, VALUES)


def written(folder: Path, values: dict[str, Any]) -> TableConfig:
    path = folder / "table.yaml"
    path.write_text(json.dumps(values, indent=1))
    return load_table(path)


def test_markdown(table: TableConfig) -> None:
    assert markdown(table, FIGURES, "`a command`, 4 runs").split("\n") == [
        "# Losses & weights_100%",
        "",
        "`a command`, 4 runs",
        "",
        "|  | R@1\\|a | seconds | R@1\\|a, published | seconds, published |",
        "|---|---|---|---|---|",
        "| \\|M - ΣL\\|, γ | 2.0 ± 1.0 | 15 ± 7 (2 of 3 runs) | 12.2 | n/a |",
        "| plain | 0.1 | 4 |  |  |",
        "| theirs | - | - | 50.0 |  |",
        "",
        "Published figures: A paper, Table 1. Other data.",
        "",
        "theirs: not run; the weights are not public",
        "",
    ]


def test_csv_has_every_run_with_all_its_digits(table: TableConfig) -> None:
    assert list(csv.reader(io.StringIO(as_csv(table, FIGURES)))) == [
        ["row", "run", "R@1|a", "seconds"],
        ["|M - ΣL|, γ", "0", "1.0", "10.0"],
        ["|M - ΣL|, γ", "1", "3.0", "20.0"],
        ["|M - ΣL|, γ", "2", "2.0", ""],
        ["|M - ΣL|, γ", "published", "12.25", "n/a"],
        ["plain", "0", "0.123456789", "4.4"],
        ["theirs", "published", "50.0", ""],
    ]


def test_latex(table: TableConfig) -> None:
    assert latex(table, FIGURES).split("\n") == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Losses \& weights\_100\%. Published figures: A paper, Table 1. Other data.}",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r" & R@1|a & seconds & R@1|a, published & seconds, published \\",
        r"\midrule",
        r"|M - ΣL|, $\gamma$ & 2.0 $\pm$ 1.0 & 15 $\pm$ 7 (2 of 3 runs) & 12.2 & n/a \\",
        r"plain & 0.1 & 4 &  &  \\",
        r"theirs & - & - & 50.0 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]


@given(st.text(st.sampled_from("ab\\&%$#_{}~^±γ")))
def test_latex_text_can_be_read_back(text: str) -> None:
    """Every special character is escaped, once, and nothing else is touched."""
    escapes = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"$\pm$": "±"}
    escapes |= {r"$\gamma$": "γ"} | {"\\" + character: character for character in "&%$#_{}"}
    left, found = latex_text(text), ""
    while left:
        escape = next((escape for escape in escapes if left.startswith(escape)), left[0])
        assert escape in escapes or escape in "ab"
        found += escapes.get(escape, escape)
        left = left[len(escape) :]
    assert found == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [{"name": "x", "published": [1.0]}]}, "row 'x' has 1 published figures for 2 columns"),
        ({"rows": [{"name": "x", "published": [1, 2, 3]}]}, "row 'x' has 3 published figures for 2 columns"),
        ({"rows": [{"name": "x"}, {"name": "x"}]}, "two rows have the same name"),
        ({"rows": []}, "'rows': Tuple should have at least 1 item"),
        ({"columns": [], "rows": [{"name": "x"}]}, "'columns': Tuple should have at least 1 item"),
        ({"seeds": 0}, "'seeds' should be greater than or equal to 1; found 0"),
        ({"checkpoint": "newest"}, "'checkpoint' should be one of 'best', 'last'; found 'newest'"),
        ({"row": []}, "unknown key 'row'; did you mean 'rows'?"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        written(tmp_path, {**VALUES, **changes})
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "table.yaml"))


def test_unknown_table() -> None:
    with pytest.raises(UserError, match="did you mean 'neumatch_1'"):
        load_table(Path("neumatch1"))


# Which runs there are.


def test_runs_of_a_row(table: TableConfig) -> None:
    row = RowConfig(name="r", values={"combiner.gamma": 1.0, "training.epochs": 5})
    expected = {"training.epochs": 5, "combiner.gamma": 1.0}
    assert cells_of(table, row, None, {}) == [{**expected, "seed": seed} for seed in (101, 102, 103)]
    assert cells_of(table, row, 1, {"training.epochs": 2}) == [{**expected, "training.epochs": 2, "seed": 101}]


def test_shared_runs_are_planned_once(tmp_path: Path) -> None:
    a, b, c = {"x": 1, "seed": 101}, {"x": 2, "seed": 101}, {"x": {"name": "sum"}, "seed": 101}
    again = {"seed": 101, "x": 1}  # in another order
    path = tmp_path / PLAN
    assert _extended_plan(path, [a, b, again, c, b]) == [a, b, c]
    assert _extended_plan(path, []) == [a, b, c]
    assert _extended_plan(path, [{"x": 1, "seed": 102}, c, a]) == [a, b, c, {"x": 1, "seed": 102}]
    assert json.loads(path.read_text()) == [a, b, c, {"x": 1, "seed": 102}]


def test_declared_tables_share_runs(tmp_path: Path) -> None:
    """RP + SBN + LARS is in several tables of NeuMATCH, and a run scored at two checkpoints is one run."""
    path = tmp_path / PLAN
    for name, seeds, expected in (("neumatch_2", 2, 6), ("neumatch_4", 2, 14), ("neumatch_4", 3, 20)):
        table = load_table(Path(name))
        cells = [values for row in table.rows for values in cells_of(table, row, seeds, {})]
        before = json.loads(path.read_text()) if path.exists() else []
        plan = _extended_plan(path, cells)
        assert plan[: len(before)] == before  # runs keep their numbers
        assert len(plan) == expected
    first = load_table(Path("neumatch_1"))
    one, two = (row for row in first.rows if row.values)
    assert cells_of(first, one, 3, {}) == cells_of(first, two, 3, {})
    assert (one.checkpoint, two.checkpoint) == (None, "best")
