"""The backbone of the page on how to plug MELTR into one's own model: short, and it trains as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_pixels import small_pixels

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "models" / "backbones" / "README.md"


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def test_it_is_short() -> None:
    assert len([line for line in block("python").splitlines() if line.strip()]) < 40


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_it_trains_and_is_scored(tmp_path: Path) -> None:
    small_pixels(tmp_path / "data")
    (tmp_path / "towers.py").write_text(block("python"))
    (tmp_path / "towers.yaml").write_text(block("yaml"))
    here = [f"storage={tmp_path}", f"data.root={tmp_path / 'data'}", "data.folder=.", "data.frames=frames_*.tar"]
    run("distributed.train", tmp_path, str(tmp_path / "towers.yaml"), *here, "data.validation=0.2")
    logged = [json.loads(line) for line in (tmp_path / "towers" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/contrastive", "loss/order", "coefficient/order"} <= logged[0].keys()
    assert "| chance |" in run("distributed.evaluate", tmp_path, str(tmp_path / "towers"))


def run(module: str, path: Path, *arguments: str) -> str:
    """A command on the tests' cluster, with the page's module on its path -> what it printed."""
    import ray

    here = {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    environment = {**os.environ, **here, "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(command, env=environment, cwd=path, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
