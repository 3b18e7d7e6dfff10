"""The file of a sweep: what loads, what is refused before anything is written, and what resuming may change."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tuning.ablate
from distributed.config import Recipe
from distributed.recipe_file import load_recipe
from models.errors import UserError
from tests.support.workers import refusal
from tuning.ablate import ablate
from tuning.config import SPACES, SweepConfig, base_recipe, check_space, load_sweep
from tuning.sweep import begun, resumed, sweep
from tuning.tables import TABLES, load_table

ETA, SMOOTHING = "optimiser.eta", "training.label_smoothing"
META, GAMMA = "combiner.meta_data", "combiner.gamma"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def write(folder: Path, changes: dict[str, Any] | None = None, name: str = "search") -> Path:
    """A sweep over the demonstration's recipe, which needs no data to be checked."""
    values = {"name": name, "recipe": "demo", "storage": str(folder / "runs"), "space": {ETA: {"uniform": [0.1, 1]}}}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**values, **(changes or {})}, indent=1))
    return path


def checked(path: Path, overrides: Sequence[str] = (), fixed: Sequence[str] = ()) -> SweepConfig:
    config = load_sweep(path, overrides, fixed)
    check_space(config, path)
    return config


def mistake(path: Path, overrides: Sequence[str] = (), fixed: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as error:
        checked(path, overrides, fixed)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_declared_spaces(path: Path) -> None:
    config = checked(path)
    assert config.space
    assert checked(Path(path.stem)) == config
    first, second = path.read_text().split("\n")[:2]
    assert first.startswith("# ")
    assert second.startswith("# Command:  ")
    assert second.endswith(path.stem)


def test_declared_spaces_are_there() -> None:
    assert {path.stem for path in SPACES.glob("*.yaml")} >= {"neumatch_lars", "meltr", "meltr_smoke", "meltr_pbt"}
    assert len(list(TABLES.glob("*.yaml"))) == 13


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_declared_tables(path: Path) -> None:
    table = load_table(Path(path.stem))
    config = SweepConfig(name="ablate", recipe=table.recipe, base=False)
    tuning.ablate._check_rows(config, {path.stem: table}, {})
    assert any(row.missing is None for row in table.rows)


def test_defaults(tmp_path: Path, storage: Path) -> None:
    config = checked(write(tmp_path))
    assert (config.searcher.name, config.scheduler.name, config.metric, config.mode) == (
        "random",
        "none",
        "selected",
        "max",
    )
    assert config.base
    recipe = base_recipe(config)
    assert (recipe.name, recipe.storage, recipe.tracking.group) == ("search", storage / "search", "search")


def test_a_name_that_yaml_would_take_for_a_number(tmp_path: Path) -> None:
    assert base_recipe(checked(write(tmp_path, {"name": "2024"}))).name == "2024"


def one(kind: dict[str, Any], key: str = ETA) -> dict[str, Any]:
    return {"space": {key: kind}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (one({}), ":6: give exactly one of loguniform, uniform, randint, choice, grid"),
        (one({"uniform": [0, 1], "grid": [1]}), ":6: give exactly one of loguniform, uniform, randint, choice, grid"),
        (one({"uniform": [1, 0.1]}), ":6: the lower bound 1 must be below the upper bound 0.1"),
        (one({"randint": [2, 2]}), ":6: the lower bound 2 must be below the upper bound 2"),
        (one({"loguniform": [0, 1]}), ":6: the bounds of loguniform must be positive; found 0"),
        (one({"choice": []}), "should have at least 1 item"),
        (one({"uniform": [0.1]}), "missing key"),
        (one({"randint": [1, 2.5]}), "found 2.5"),
        (one({"loguniform": [0.1, float("inf")]}), "should be a number; found 'Infinity'"),
        (one({"chioce": [1]}), "did you mean "),
        ({"space": {}}, ": the space is empty: name at least one recipe key below `space`"),
        ({"name": "../elsewhere"}, "'name': String should match pattern"),
        ({"recipe": "dem"}, "did you mean 'demo'?"),
        ({"fixed": {ETA: 0.1}}, "'optimiser.eta' is in fixed and in space: leave it out of one"),
        ({"searcher": {"name": "grid"}}, "'optimiser.eta' is uniform, which searcher.name='grid' cannot go through"),
        (
            {"searcher": {"name": "tpe"}, **one({"grid": [0.1]})},
            "'optimiser.eta' is a grid, which searcher.name='tpe' does not go through; use choice",
        ),
        (
            {"searcher": {"name": "pbt"}, "base": False, **one({"choice": [16]}, "training.batch_size")},
            "'training.batch_size' cannot change while a run is under way, as searcher.name='pbt' has it; those that "
            "can: optimiser.eta, ",
        ),
        (
            {"searcher": {"name": "pbt"}, "base": False, "scheduler": {"name": "asha"}},
            "searcher.name='pbt' decides by itself which runs go on: set scheduler.name=none",
        ),
        ({"searcher": {"name": "pbt"}}, "searcher.name='pbt' needs base=false and at least 2 budget.trials"),
        (
            {"searcher": {"name": "pbt"}, "base": False, "budget": {"trials": 1}},
            "searcher.name='pbt' needs base=false and at least 2 budget.trials",
        ),
        (
            {
                "searcher": {"name": "pbt"},
                "base": False,
                "space": {
                    "combiner.gamma": {"choice": [0.1, 1.0]},
                    "combiner.rate": {"uniform": [0.1, 0.2], "when": {"combiner.gamma": 0.1}},
                },
            },
            "'combiner.rate' has a condition, which searcher.name='pbt' does not look at",
        ),
        (
            {"fixed": {"combiner.gamma": 0.1}, **one({"choice": [{"name": "sum"}]}, "combiner")},
            "'combiner' replaces 'combiner.gamma' with all else below it",
        ),
        ({"searcher": {"name": "tpr"}}, "did you mean 'tpe'?"),
        ({"budget": {"trials": 0}}, "'budget.trials' should be greater than or equal to 1; found 0"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, changes)
    found = mistake(path)
    assert message in found
    assert found.startswith(str(path)) or "recipes/dem.yaml" in found


WAY = {"choice": ["none", "sbn"]}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {ETA: {"uniform": [0, 1], "when": {"model.normalisation": "sbn"}}, "model.normalisation": WAY},
            "'optimiser.eta' depends on 'model.normalisation', which must be a key of the space above it",
        ),
        (
            {ETA: {"uniform": [0, 1], "when": {ETA: 0.5}}},
            "'optimiser.eta' depends on 'optimiser.eta', which must be a key of the space above it",
        ),
        (
            {"model.normalisation": WAY, ETA: {"uniform": [0, 1], "when": {"model.normalisation": "2xln"}}},
            "'optimiser.eta' depends on 'model.normalisation' being '2xln', which it never is",
        ),
        (
            {"model.normalisation": WAY, ETA: {"uniform": [0, 1], "when": {"model.normalisation": []}}},
            "'optimiser.eta' depends on 'model.normalisation' being [], which it never is",
        ),
        (
            {SMOOTHING: {"uniform": [0, 0.1]}, ETA: {"uniform": [0, 1], "when": {SMOOTHING: 0.05}}},
            f"'optimiser.eta' depends on '{SMOOTHING}' being 0.05, which it never is",
        ),
    ],
)
def test_conditions_that_cannot_be(tmp_path: Path, space: dict[str, Any], message: str) -> None:
    assert message in mistake(write(tmp_path, {"space": space}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"optimiser.eat": {"uniform": [0.1, 1]}},
            "space: 'optimiser.eat' = 0.1: unknown key 'optimiser.eat'; did you mean 'optimiser.eta'? allowed: name,",
        ),
        (
            {SMOOTHING: {"uniform": [0, 1.5]}},
            f"space: '{SMOOTHING}' = 1.5: '{SMOOTHING}' should be less than 1; found 1.5",
        ),
        (
            {ETA: {"choice": [0.1, "fast"]}},
            "space: 'optimiser.eta' = \"fast\": 'optimiser.eta' should be a number; found 'fast'",
        ),
        (
            {"training.epochs": {"uniform": [1, 9]}},
            "space: 'training.epochs' = 1.0: 'training.epochs' should be a whole number; found 1.0",
        ),
        (  # the second bound, and under its condition
            {"model.normalisation": WAY, SMOOTHING: {"uniform": [0, 2], "when": {"model.normalisation": "sbn"}}},
            f"space: '{SMOOTHING}' = 2.0: '{SMOOTHING}' should be less than 1; found 2.0",
        ),
        (  # too few samples for the workers that the sweep itself asks for
            {"training.batch_size": {"choice": [16, 2]}},
            "space: 'training.batch_size' = 2: training.batch_size=2 cannot be shared by scaling.workers=4",
        ),
    ],
)
def test_values_that_the_recipe_refuses(tmp_path: Path, space: dict[str, Any], message: str) -> None:
    path = write(tmp_path, {"space": space, "resources": {"workers": 4}, "fixed": {"model.name": "neumatch"}})
    lines = path.read_text().split("\n")
    line = next(number for number, text in enumerate(lines, 1) if f'"{list(space)[-1]}": {{' in text)
    assert mistake(path).startswith(f"{path}:{line}: {message}")


def test_fixed_values_are_checked(tmp_path: Path) -> None:
    assert "unknown key 'optimiser.rat'" in mistake(write(tmp_path, {"fixed": {"optimiser.rat": 1}}))
    assert "'training.epochs' should be greater than or equal to 1; found 0" in mistake(
        write(tmp_path), fixed=["training.epochs=0"]
    )
    workers = write(tmp_path, {"resources": {"workers": 17}})
    assert "training.batch_size=8 cannot be shared by scaling.workers=17" in mistake(workers)


def test_overrides_and_set(tmp_path: Path) -> None:
    path = write(tmp_path, {"space": {ETA: {"uniform": [0.1, 1]}, SMOOTHING: {"uniform": [0, 0.5]}}})
    config = checked(path, ["budget.trials=3"], [f"{SMOOTHING}=0.25", "training.epochs=7", "optimiser={eta: 0.5}"])
    assert config.budget.trials == 3
    assert list(config.space) == [ETA]
    recipe = base_recipe(config)
    assert (recipe.training.epochs, recipe.optimiser.eta) == (7, 0.5)
    assert recipe.model_dump()["training"]["label_smoothing"] == 0.25


def test_set_decides_conditions() -> None:
    path = Path("meltr_smoke")
    dependent = "combiner.held_out_fraction"
    assert checked(path).space[dependent].when == {META: "held_out"}
    always = checked(path, fixed=[f"{META}=held_out"]).space
    assert META not in always
    assert always[dependent].when == {}
    assert dependent not in checked(path, fixed=[f"{META}=replay"]).space


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (["epochs"], "--set: expected dotted.key=value, found 'epochs'"),
        (["=3"], "--set: expected dotted.key=value, found '=3'"),
        (["training.epochs=[1"], "--set: 'training.epochs': "),
        ([f"{ETA}=0.5"], ": the space is empty: name at least one recipe key below `space` that --set leaves free"),
    ],
)
def test_bad_set(tmp_path: Path, fixed: list[str], message: str) -> None:
    assert message in mistake(write(tmp_path), fixed=fixed)


def test_options_of_ablate(storage: Path) -> None:
    for options, message in (
        (["--concurrent", "0"], "--concurrent should be at least 1; found 0"),
        (["--workers", "-1"], "--workers should be at least 1; found -1"),
        (["--set", "a=[1"], "--set: 'a': "),
        (["--set", "seed=x"], "meltr_9, row 'γ = 0': 'seed' should be a whole number; found 'x'"),
    ):
        with pytest.raises(UserError) as error:
            ablate(["meltr_9", "--storage", str(storage), *options])
        assert message in str(error.value)
    assert not storage.exists()


# The command itself, in a process of its own: one line, exit code 2, nothing written or started.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one sweep: a YAML file, or one of tuning/spaces; or give --resume NAME"),
        (["meltr", "meltr_smoke"], "name one sweep: a YAML file, or one of tuning/spaces; or give --resume NAME"),
        (["meltr_smok"], "meltr_smok.yaml: no such file; did you mean 'meltr_smoke'? there are: demo, meltr, "),
        (["FILE", "budgit.trials=3"], "FILE, on the command line: unknown key 'budgit'; did you mean 'budget'? "),
        (["FILE", "--set", "training.epochs=ten"], "'training.epochs' should be a whole number; found 'ten'"),
        (["FILE", "--set", "training.epochs"], "--set: expected dotted.key=value, found 'training.epochs'"),
        (["--resume", "STORAGE/nothing"], "nothing/sweep.yaml: no such file; expected the folder of a sweep, or its "),
    ],
)
def test_the_command_refuses(tmp_path: Path, storage: Path, arguments: list[str], message: str) -> None:
    def full(text: str) -> str:
        return text.replace("FILE", str(file)).replace("STORAGE", str(storage))

    file = write(tmp_path)
    assert full(message) in refusal(sweep, *map(full, arguments))
    assert not storage.exists()


def test_the_command_names_the_line_of_a_misspelt_key(tmp_path: Path, storage: Path) -> None:
    file = write(tmp_path, {"space": {"training.batchsize": {"choice": [16]}}})
    assert refusal(sweep, file).startswith(
        f"{file}:6: space: 'training.batchsize' = 16: unknown key 'training.batchsize'; did you mean "
        "'training.batch_size'? "
    )
    assert not storage.exists()


# Resuming.


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_second_sweep_of_the_same_name(tmp_path: Path, storage: Path) -> None:
    path = write(tmp_path)
    begun(path, [], [])
    before = files_of(storage / "search")
    assert refusal(sweep, path, "budget.trials=3") == (
        f"{storage}/search: there is a sweep of this name; go on with it: python -m tuning.sweep --resume "
        f"{storage}/search, or give this one another name=..."
    )
    assert files_of(storage / "search") == before
    assert begun(path, ["name=other"], []).folder == storage / "other"


@pytest.mark.parametrize(
    ("changes", "fixed", "message"),
    [
        ({"metric": "loss"}, [], "began with metric = 'selected', and would go on with 'loss'; only budget"),
        ({"mode": "min"}, [], "began with mode = 'max', and would go on with 'min'"),
        ({"seed": 1}, [], "began with seed = 0, and would go on with 1"),
        ({"searcher": {"name": "tpe"}}, [], "began with searcher.name = 'random', and would go on with 'tpe' (and 1"),
        ({"scheduler": {"name": "asha"}}, [], "began with scheduler.grace_epochs = nothing, and would go on with 10"),
        (
            one({"uniform": [0.1, 2]}),
            [],
            "began with space.optimiser.eta.uniform = [0.1, 1.0], and would go on with [0.1, 2.0]; only budget",
        ),
        (
            {"space": {ETA: {"uniform": [0.1, 1]}, SMOOTHING: {"choice": [0.1]}}},
            [],
            "began with space.training.label_smoothing.choice = nothing, and would go on with [0.1] (and 4 more)",
        ),
        ({}, ["training.epochs=3"], "began with fixed.training.epochs = nothing, and would go on with 3; only budget"),
        ({}, ["seed=null"], "began with fixed.seed = nothing, and would go on with None; only budget"),
        ({"recipe": "digits_meltr"}, [], "began with recipe = 'demo', and would go on with 'digits_meltr'"),
    ],
)
def test_resuming_with_something_changed(
    tmp_path: Path, storage: Path, changes: dict[str, Any], fixed: list[str], message: str
) -> None:
    begun(write(tmp_path), [], [])
    before = files_of(storage / "search")
    with pytest.raises(UserError) as error:
        resumed(str(storage / "search"), write(tmp_path, changes), [], fixed)
    assert str(error.value).startswith(f"{storage}/search: {message}")
    assert files_of(storage / "search") == before


def test_the_command_refuses_to_resume_with_something_changed(tmp_path: Path, storage: Path) -> None:
    begun(write(tmp_path), [], [])
    assert "began with metric = 'selected', and would go on with 'loss'; only budget and resources may change" in (
        refusal(sweep, "--resume", storage / "search", "metric=loss")
    )


def test_resuming_with_another_budget_and_other_resources(tmp_path: Path, storage: Path) -> None:
    begun(write(tmp_path), [], ["training.epochs=7"])
    folder = storage / "search"
    config = resumed(str(folder), None, ["budget.trials=99", "resources.workers=3"], [])
    assert (config.budget.trials, config.resources.workers, config.folder) == (99, 3, folder)
    assert load_recipe(folder / "sweep.yaml", [], SweepConfig) == config
    recipe = load_recipe(folder / "recipe.yaml", [], Recipe)
    assert (recipe.scaling.workers, recipe.training.epochs) == (3, 7)
    assert resumed(str(folder), None, [], []) == config  # what was changed stays
    with pytest.raises(UserError, match=r"cannot be shared by scaling\.workers=99"):
        resumed(str(folder), None, ["resources.workers=99"], [])
    assert load_recipe(folder / "sweep.yaml", [], SweepConfig) == config


def test_resuming_by_name_and_from_elsewhere(tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(write(tmp_path), [], [])
    monkeypatch.chdir(tmp_path)
    assert resumed("search", None, [], []).folder == storage / "search"
    storage.rename(tmp_path / "moved")
    config = resumed("moved/search", None, [], [])
    assert config.folder == tmp_path / "moved" / "search"
    assert load_recipe(config.folder / "recipe.yaml", [], Recipe).storage == config.folder


def test_resuming_keeps_the_recipe_that_the_sweep_began_with(tmp_path: Path, storage: Path) -> None:
    own = tmp_path / "own.yaml"
    text = (SPACES.parent.parent / "distributed" / "recipes" / "demo.yaml").read_text()
    own.write_text(text)
    begun(write(tmp_path, {"recipe": str(own)}), [], [])
    own.write_text(text.replace("batch_size: 8", "batch_size: 4"))
    resumed(str(storage / "search"), None, ["budget.trials=5"], [])
    assert load_recipe(storage / "search" / "recipe.yaml", [], Recipe).training.batch_size == 8
