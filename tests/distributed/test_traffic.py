"""The bytes that workers exchange in a step are those that tests/benchmarks/traffic.py calculates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distributed.config import Recipe
from tests.benchmarks.scaling import tables
from tests.benchmarks.traffic import Collective, Kind, Setting, calls, meta, plain, total
from tests.support.counting import Steps, count_steps
from tests.support.small_videos import small_videos, video_recipe
from tests.support.workers import on_workers

KINDS: tuple[Kind, ...] = ("all_reduce", "all_gather", "reduce_scatter")


class Case(NamedTuple):
    """What is counted."""

    stage: int
    way: str
    low: bool = False
    lars: bool = False
    releases: bool = False


# Forward mode first: DeepSpeed's stage 3 replaces torch's linear function for the rest of the process.
CASES = (
    Case(1, "forward_mode", low=True),
    Case(0, "per_task"),
    Case(2, "finite_difference", lars=True),
    Case(3, "per_task", lars=True, releases=True),
)
OTHERS = (
    Case(0, "one_sided_difference"),
    Case(3, "per_task"),
    Case(0, "forward_mode"),
    Case(2, "forward_mode"),
    Case(0, "finite_difference"),
    Case(1, "one_sided_difference"),
    Case(1, "per_task", low=True),
    Case(3, "per_task", low=True),
    Case(3, "finite_difference"),
    Case(3, "one_sided_difference", releases=True),
)


def count_all(recipes: Sequence[Recipe], releases: Sequence[bool]) -> list[Steps]:
    """One run after another."""
    return [count_steps(recipe, let_go) for recipe, let_go in zip(recipes, releases, strict=True)]


def recipe_of(case: Case, folder: Path, workers: int) -> Recipe:
    changes: dict[str, Any] = {
        "engine.zero_stage": case.stage,
        "engine.precision": "bf16" if case.low else "fp32",
        "combiner.way": case.way,
        "optimiser.name": "lars" if case.lars else "adam",
        "scaling.workers": workers,
        "training.epochs": 4,
    }
    return video_recipe(folder, folder / "runs", changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "cases"),
    [(2, CASES), *(pytest.param(n, cases, marks=pytest.mark.rehearsal) for n, cases in ((2, OTHERS), (4, CASES)))],
)
def test_every_collective_is_calculated(tmp_path: Path, workers: int, cases: Sequence[Case]) -> None:
    data = small_videos(tmp_path / "videos")
    recipes = [recipe_of(case, data, workers) for case in cases]
    found = on_workers(workers, count_all, recipes, [case.releases for case in cases])[0]
    for case, steps in zip(cases, found, strict=True):
        at = Setting(workers, case.stage, 8, case.way, case.low, case.lars, case.releases)
        ordinary = list(plain(steps.model, at))
        with_meta = [*ordinary, *meta(steps.model, at)]
        for step, expected in enumerate((ordinary, with_meta)):
            assert steps.counted[step] == by_kind(expected), (case, step)
            assert steps.loopback[step] >= workers * sent_by_gloo(expected, workers), (case, step)
            most = calls(expected)
            if case.stage == 3:  # which gathers of neighbours are one is DeepSpeed's to decide
                assert most / 2 < steps.calls[step] <= most, (case, step)
            else:
                assert steps.calls[step] == most, (case, step)


def sent_by_gloo(collectives: Sequence[Collective], workers: int) -> float:
    """What a worker sends at least: gloo makes a reduce-scatter as an all-reduce. Headers come on top."""
    return sum((2 if c.kind == "reduce_scatter" else 1) * c.sent(workers) for c in collectives)


def by_kind(collectives: Sequence[Collective]) -> dict[str, int]:
    sizes: dict[str, int] = {kind: total(collectives, kind) for kind in KINDS}
    return {kind: size for kind, size in sizes.items() if size}


def test_a_ring() -> None:
    assert Collective("", "all_reduce", 100).sent(2) == 100
    assert Collective("", "all_reduce", 100).sent(4) == 150
    assert Collective("", "all_gather", 100).sent(4) == Collective("", "reduce_scatter", 100).sent(4) == 75


def test_the_page_has_the_tables_that_the_formulas_give() -> None:
    page = (Path(__file__).parents[2] / "distributed" / "scaling.md").read_text(encoding="utf-8")
    for text in tables():
        assert text in page
