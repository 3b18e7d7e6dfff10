"""`ray job submit --working-dir . -- python -m distributed.train ...` on a real cluster: logs, figures, exit codes."""

import subprocess
from pathlib import Path

import pytest

from distributed import checkpoint
from distributed.recipe_file import dump_recipe
from tests.conftest import ROOT
from tests.support.heads import Head, ray_command
from tests.support.small_runs import small_recipe

pytestmark = pytest.mark.slow


def submit(head: Head, *entrypoint: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ray_command("job", "submit", "--address", head.address, "--working-dir", ".", "--", *entrypoint),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )


def test_a_submitted_job_trains_and_a_mistake_fails_it(head: Head, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(small_recipe(data, tmp_path / "runs")))
    train = ("python", "-m", "distributed.train", path)

    done = submit(head, *train)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished run: step 6" in done.stdout
    newest = checkpoint.newest(tmp_path / "runs" / "run")
    assert newest is not None
    assert newest.step == 6

    wrong = submit(head, *train, "training.epoch=3")
    assert wrong.returncode != 0
    assert "training.epoch" in wrong.stdout
    assert "did you mean" in wrong.stdout
    assert "Traceback" not in wrong.stdout

    longer = submit(head, *train, "training.epochs=3")  # the same name goes on
    assert longer.returncode == 0, longer.stdout + longer.stderr
    assert "resumed from step 6" in longer.stdout
    assert "finished run: step 9" in longer.stdout
