"""What is checked of a job's command before anything is uploaded, and which run it is found to be about."""

from pathlib import Path

import pytest

from cluster.command import UserError
from cluster.job_command import check_command
from cluster.job_package import select
from tests.conftest import ROOT

CHECKOUT = select(ROOT)
TRAIN = ["python", "-m", "distributed.train"]
SWEEP = ["python", "-m", "tuning.sweep"]


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        check_command(words, CHECKOUT)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_entrypoint_is_quoted_for_a_shell() -> None:
    assert check_command(["echo", "a b", "$HOME"], CHECKOUT).entrypoint == "echo 'a b' '$HOME'"


def test_no_command_is_refused() -> None:
    assert "write it after --" in refusal()


@pytest.mark.parametrize(
    ("words", "run"),
    [
        ([*TRAIN, "demo", "storage=/shared/runs"], "/shared/runs/demo"),
        ([*TRAIN, "demo", "storage=/shared/runs/", "name=mine", "training.epochs=3"], "/shared/runs/mine"),
        (["/usr/bin/python3", "-u", "-m", "distributed.train", "demo", "storage=/a"], "/a/demo"),
        ([*TRAIN, "distributed/recipes/demo.yaml", "storage=/a"], "/a/demo"),
        ([*TRAIN, "/elsewhere/recipe.yaml", "storage=/a"], None),
        ([*SWEEP, "neumatch_lars", "storage=/a"], "/a/neumatch-lars"),
        ([*SWEEP, "neumatch_lars", "--set", "storage=nothing", "storage=/a"], "/a/neumatch-lars"),
        ([*SWEEP, "--resume", "/a/neumatch-lars", "budget.trials=9"], "/a/neumatch-lars"),
        ([*SWEEP, "--resume=/a/neumatch-lars"], "/a/neumatch-lars"),
        (["python", "-m", "distributed.evaluate", "/a/demo"], None),
        (["python", "-m", "json.tool", "file.json"], None),
        (["python", "-c", "print(1)"], None),
        (["true"], None),
    ],
)
def test_the_run_is_found(words: list[str], run: str | None) -> None:
    assert check_command(words, CHECKOUT).run == run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TRAIN], "name a recipe"),
        ([*TRAIN, "storage=/a"], "name a recipe"),
        (
            [*TRAIN, "demoo", "storage=/a"],
            "demoo: no such recipe in distributed/recipes; there are: allinone_msrvtt7k_retrieval,",
        ),
        ([*TRAIN, "mine/recipe.yaml", "storage=/a"], "mine/recipe.yaml: no such file"),
        ([*TRAIN, "../recipe.yaml", "storage=/a"], "lies outside of"),
        ([*TRAIN, "distributed/../../recipe.yaml", "storage=/a"], "lies outside of"),
        ([*TRAIN, "tests/conftest.py", "storage=/a"], ".rayignore or --exclude leaves it out"),
        ([*TRAIN, "demo"], "storage=runs: a relative folder would lie in the job's own copy"),
        ([*TRAIN, "demo", "storage=here"], "storage=here: a relative folder"),
        ([*SWEEP, "neumatch_lars"], "storage=runs: a relative folder"),
        ([*SWEEP, "--resume", "neumatch-lars"], "give the sweep's folder, e.g. /shared/runs/neumatch-lars"),
        (["python", "-m", "distributed.trian", "demo"], "there is no module distributed.trian"),
        (["python", "-m", "tests.benchmarks.run"], "leaves it out"),
    ],
)
def test_a_mistake_is_refused(words: list[str], said: str) -> None:
    assert said in refusal(*words)


def test_an_absolute_recipe_is_left_alone_with_a_warning() -> None:
    [warning] = check_command([*TRAIN, "/elsewhere/recipe.yaml", "storage=/a"], CHECKOUT).warnings
    assert "must exist on the cluster" in warning
    [warning] = check_command([*TRAIN, f"{ROOT}/distributed/recipes/demo.yaml"], CHECKOUT).warnings
    assert "distributed/recipes/demo.yaml, relative to the checkout, would go with it" in warning
    assert check_command([*TRAIN, "demo", "storage=/a"], CHECKOUT).warnings == []


def test_a_recipe_of_ones_own_says_where_its_run_lies(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "distributed").mkdir()
    (tmp_path / "distributed" / "train.py").write_text('"""Trains."""\n')
    (tmp_path / "mine.yaml").write_text("name: mine\nstorage: /shared/runs\n")
    (tmp_path / "broken.yaml").write_text("name: mine\nstorage: [\n")
    selection = select(tmp_path)
    assert check_command([*TRAIN, "mine.yaml"], selection).run == "/shared/runs/mine"
    with pytest.raises(UserError, match=r"broken\.yaml:3: is not YAML"):
        check_command([*TRAIN, "broken.yaml"], selection)


def test_a_folder_without_the_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(UserError, match=r"there is no module distributed\.train; name the checkout with --working-dir"):
        check_command([*TRAIN, "demo"], select(tmp_path))
