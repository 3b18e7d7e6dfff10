"""Spaces: samples within bounds, conditions, the grid against an obvious one, the values that are tried beforehand."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tuning.sweep
from tuning.journal import Journal
from tuning.space import KINDS, ParameterConfig, Space, grid, probes, sample, settled

finite = st.floats(-1e6, 1e6)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | finite | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def space_of(values: Mapping[str, Any]) -> dict[str, ParameterConfig]:
    """A space as its file has it."""
    return {key: ParameterConfig.model_validate_json(json.dumps(value)) for key, value in values.items()}


def drawn(space: Space, seed: int = 0, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return sample(space, study.ask(), given or {})


@given(st.floats(1e-9, 1e6), st.floats(1.001, 1e6), st.integers(0, 99))
def test_loguniform_stays_in_bounds(low: float, ratio: float, seed: int) -> None:
    assert low <= drawn(space_of({"k": {"loguniform": [low, low * ratio]}}), seed)["k"] <= low * ratio


@given(finite, st.floats(1e-3, 1e6), st.integers(0, 99))
def test_uniform_stays_in_bounds(low: float, width: float, seed: int) -> None:
    assert low <= drawn(space_of({"k": {"uniform": [low, low + width]}}), seed)["k"] <= low + width


@given(st.integers(-50, 50), st.integers(1, 9), st.integers(0, 99))
def test_randint_stays_in_bounds(low: int, width: int, seed: int) -> None:
    value = drawn(space_of({"k": {"randint": [low, low + width]}}), seed)["k"]
    assert type(value) is int
    assert low <= value <= low + width


def test_distributions() -> None:
    space = space_of({"log": {"loguniform": [1e-4, 1.0]}, "even": {"uniform": [0, 4]}, "whole": {"randint": [1, 3]}})
    values = [drawn(space, seed) for seed in range(200)]
    assert 0.35 < sum(math.log10(v["log"]) < -2 for v in values) / 200 < 0.65  # half of the decades
    assert 0.35 < sum(v["even"] < 2 for v in values) / 200 < 0.65
    assert {v["whole"] for v in values} == {1, 2, 3}  # both bounds can occur


@given(st.lists(anything, min_size=1, max_size=4), st.integers(0, 99), st.sampled_from(["choice", "grid"]))
def test_whatever_is_in_a_list_comes_back_as_it_was(options: list[Any], seed: int, kind: str) -> None:
    value = drawn(space_of({"k": {kind: options}}), seed)["k"]
    assert json.dumps(value) in map(json.dumps, options)  # also the types: 1, 1.0 and true are equal to Python


def test_every_option_occurs() -> None:
    options = [None, True, 1, 1.0, "1", [1, 2], {"name": "sum"}]
    space = space_of({"k": {"choice": options}})
    found = {json.dumps(drawn(space, seed)["k"]) for seed in range(100)}
    assert found == set(map(json.dumps, options))


def test_kinds() -> None:
    bounds = {"loguniform": [1, 2], "uniform": [1, 2], "randint": [1, 2], "choice": [1, 2], "grid": [1, 2]}
    space = space_of({kind: {kind: value} for kind, value in bounds.items()})
    assert tuple(space) == KINDS
    assert [parameter.kind for parameter in space.values()] == list(KINDS)
    assert [parameter.logarithmic for parameter in space.values()] == [True, False, False, False, False]
    assert [parameter.finite for parameter in space.values()] == [None, None, [1, 2], [1, 2], [1, 2]]
    assert space_of({"k": {"randint": [-1, 2]}})["k"].finite == [-1, 0, 1, 2]


NESTED: dict[str, dict[str, Any]] = {
    "combiner": {"choice": ["sum", "meltr", "none"]},
    "network": {"choice": ["linear", "transformer"], "when": {"combiner": "meltr"}},
    "heads": {"randint": [1, 8], "when": {"network": "transformer"}},
    "weight": {"uniform": [0, 1], "when": {"combiner": ["sum", "meltr"]}},
}


def test_conditional_keys_are_there_while_their_conditions_hold() -> None:
    seen = set()
    for seed in range(60):
        values = drawn(space_of(NESTED), seed)
        assert ("network" in values) == (values["combiner"] == "meltr")
        assert ("heads" in values) == (values.get("network") == "transformer")
        assert ("weight" in values) == (values["combiner"] in ("sum", "meltr"))
        seen.add(frozenset(values))
    assert len(seen) == 4


def test_given_values_are_taken_and_decide_about_conditions() -> None:
    values = drawn(space_of(NESTED), given={"combiner": "none", "heads": 3})
    assert values == {"combiner": "none"}
    values = drawn(space_of(NESTED), given={"combiner": "meltr", "network": "transformer", "heads": 99})
    assert values["heads"] == 99
    assert 0 <= values["weight"] <= 1


names = [f"k{n}" for n in range(4)]
OPTIONS: list[Any] = ["a", "b", 2, 0.5, None, [1, 2], {"name": "sum"}]


@st.composite
def finite_spaces(draw: st.DrawFn) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for name in names[: draw(st.integers(1, 4))]:
        options = draw(st.lists(st.sampled_from(range(len(OPTIONS))), min_size=1, max_size=3, unique=True))
        space[name] = {draw(st.sampled_from(["grid", "choice"])): [OPTIONS[n] for n in options]}
        parents = draw(st.lists(st.sampled_from([n for n in space if n != name] or [name]), max_size=2, unique=True))
        space[name]["when"] = {
            # a list in a condition is a list of values, so that a value that is a list stands in one
            parent: draw(st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=3))
            for parent in parents
            if parent != name
        }
    return space


@given(finite_spaces())
def test_grid_against_all_combinations(values: dict[str, Any]) -> None:
    expected: list[dict[str, Any]] = []
    for combination in itertools.product(*(value.get("grid") or value.get("choice") for value in values.values())):
        point: dict[str, Any] = {}
        for (key, value), chosen in zip(values.items(), combination, strict=True):
            if all(parent in point and point[parent] in wanted for parent, wanted in value["when"].items()):
                point[key] = chosen
        if point not in expected:
            expected.append(point)
    assert grid(space_of(values)) == expected


def test_grid_has_whole_numbers_and_its_last_key_changes_fastest() -> None:
    space = space_of({"a": {"randint": [1, 2]}, "b": {"grid": ["x", "y"]}, "c": {"grid": [0], "when": {"b": "y"}}})
    assert grid(space) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y", "c": 0},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y", "c": 0},
    ]
    assert grid({}) == [{}]


class Asking:
    """Instead of a runner: begins all trials, and runs none."""

    def __init__(self, config: Any, journal: Journal, trials: int, propose: Any, watcher: Any) -> None:
        self.journal, self.trials, self.propose = journal, trials, propose

    def run(self) -> bool:
        while self.journal.ask(self.trials, self.propose) is not None:
            pass
        return True


def values_of_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[dict[str, Any]]:
    """The values that a sweep proposes, trial by trial."""
    found: list[dict[str, Any]] = []

    def finish(config: Any, runner: Asking, over: bool) -> None:
        found.extend(dict(record.values) for record in runner.journal.records(str))

    monkeypatch.setattr(tuning.sweep, "Runner", Asking)
    monkeypatch.setattr(tuning.sweep, "finish", finish)
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps({"name": "s", "recipe": "digits_meltr", "storage": str(tmp_path / "runs"), **changes}))
    tuning.sweep.sweep([str(path)])
    return found


ETA, SEED, WAY = "optimiser.eta", "seed", "combiner.way"


def test_random_search_goes_through_grid_keys_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {SEED: {"grid": [1, 2, 3]}, ETA: {"uniform": [0.1, 0.2]}}
    found = values_of_trials(tmp_path, monkeypatch, space=space, budget={"trials": 8})
    assert found[0] == {}  # the base recipe
    assert [values[SEED] for values in found[1:]] == [1, 2, 3, 1, 2, 3, 1]
    assert len({values[ETA] for values in found[1:]}) == 7
    assert all(0.1 <= values[ETA] <= 0.2 for values in found[1:])


@pytest.mark.parametrize(("budget", "base", "expected"), [(99, True, 5), (99, False, 4), (3, True, 3)])
def test_grid_search_has_every_combination_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, base: bool, expected: int
) -> None:
    space = {SEED: {"grid": [1, 2]}, ETA: {"choice": [0.1, 0.2]}}
    changes = {"space": space, "budget": {"trials": budget}, "base": base, "searcher": {"name": "grid"}}
    every = [{SEED: 1, ETA: 0.1}, {SEED: 1, ETA: 0.2}, {SEED: 2, ETA: 0.1}, {SEED: 2, ETA: 0.2}]
    found = values_of_trials(tmp_path, monkeypatch, **changes)
    assert found == [*([{}] if base else []), *every][:expected]
    assert len(found) == expected


def test_probes_try_every_bound_under_its_conditions() -> None:
    tried = list(probes(space_of({**NESTED, "rate": {"loguniform": [0.1, 0.2]}})))
    expected: list[tuple[str, Any, dict[str, Any]]] = [
        ("combiner", value, {"combiner": value}) for value in ("sum", "meltr", "none")
    ]
    expected += [("network", v, {"combiner": "meltr", "network": v}) for v in ("linear", "transformer")]
    expected += [("heads", v, {"combiner": "meltr", "network": "transformer", "heads": v}) for v in (1, 8)]
    expected += [("weight", v, {"combiner": "sum", "weight": v}) for v in (0, 1)]
    expected += [("rate", v, {"rate": v}) for v in (0.1, 0.2)]
    assert tried == expected


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({}, {"combiner": {}, "network": {"combiner": "meltr"}, "heads": {"network": "transformer"}}),
        ({"combiner": "meltr"}, {"network": {}, "heads": {"network": "transformer"}}),
        ({"combiner": "sum"}, {}),  # `heads` goes with `network`
        ({"network": "transformer"}, {"combiner": {}, "heads": {}}),
        ({"heads": 2}, {"combiner": {}, "network": {"combiner": "meltr"}}),
    ],
)
def test_what_still_varies_beside_given_values(values: dict[str, Any], left: dict[str, Any]) -> None:
    space = {key: value for key, value in NESTED.items() if key != "weight"}
    found = settled(space_of(space), values)
    assert {key: parameter.when for key, parameter in found.items()} == left
    assert all(parameter.kind in space[key] for key, parameter in found.items())
