"""The options of `python -m cluster.submit` that need no cluster: what would be sent, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.command import UserError
from cluster.job_environment import PASSED_BY_DEFAULT, WANDB_KEY
from cluster.submit import main, mapping, requirements
from tests.conftest import ROOT

TRAIN = ["--", "python", "-m", "distributed.train", "demo", "storage=/shared/runs"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PASSED_BY_DEFAULT, WANDB_KEY):
        monkeypatch.delenv(name, raising=False)


def dry_run(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["--dry-run", "--working-dir", str(ROOT), *options, *TRAIN]) == 0
    return capsys.readouterr().out


def refusal(options: Sequence[str]) -> str:
    with pytest.raises(UserError) as caught:
        main(["--dry-run", "--working-dir", str(ROOT), *options, *TRAIN])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_dry_run_says_what_would_be_sent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-value")
    monkeypatch.setenv("MELTMATCH_DATA", "/where/the/data/is")
    said = dry_run(capsys, "--env", "NCCL_DEBUG=INFO", "--entrypoint-num-cpus", "1", "--install")
    assert "command:     python -m distributed.train demo storage=/shared/runs\n" in said
    assert "run:         /shared/runs/demo\n" in said
    assert "environment: MELTMATCH_DATA, NCCL_DEBUG\n" in said
    assert "secrets:     WANDB_API_KEY (in .job_environment.json of the package)\n" in said
    assert "driver:      num_cpus 1.0\n" in said
    assert "install:     the versions of constraints.txt" in said
    assert said.endswith("nothing has been sent\n")
    assert "s3cret-value" not in said
    assert "/where/the/data/is" not in said

    assert "secrets:     none\n" in dry_run(capsys, "--no-wandb-key")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-size", "0.1"], "MB would be uploaded, --max-size allows 0.1 MB; the largest: "),
        (["--exclude", "/distributed/recipes/"], ".rayignore or --exclude leaves it out"),
        (["--entrypoint-num-gpus", "-1"], "--entrypoint-num-gpus -1.0: expected zero or more"),
        (["--entrypoint-num-cpus", "nan"], "--entrypoint-num-cpus nan: expected zero or more"),
        (["--entrypoint-resources", "{"], "expected a JSON object of names and numbers: "),
        (["--entrypoint-resources", '{"a": "1"}'], "expected a JSON object of names and numbers"),
        (["--entrypoint-label-selector", '{"a": 1}'], "expected a JSON object of names and texts"),
        (["--submission-id", "a b"], "--submission-id 'a b': expected letters, digits"),
        (["--working-dir", "/nowhere"], "--working-dir /nowhere: no such folder"),
    ],
)
def test_mistakes_are_refused(options: list[str], said: str) -> None:
    assert said in refusal(options)


def test_resources_are_read_as_ray_reads_them() -> None:
    assert mapping("--x", '{"special": 0.5}', float) == {"special": 0.5}
    assert mapping("--x", '{"market-type": "!spot"}', str) == {"market-type": "!spot"}


def test_what_every_node_installs(tmp_path: Path) -> None:
    wanted: dict[str, Any] = requirements(ROOT)
    pinned, *packages = wanted["packages"]
    assert pinned.startswith("--constraint ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt  # ")
    assert "torch>=2.13" in packages

    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert requirements(tmp_path) == wanted
    (tmp_path / "constraints.txt").write_text("torch==2.13.1\n")
    assert requirements(tmp_path)["packages"][0] != pinned  # else Ray would take the environment it has
    (tmp_path / "constraints.txt").unlink()
    with pytest.raises(UserError, match=r"--install needs .*constraints\.txt"):
        requirements(tmp_path)
