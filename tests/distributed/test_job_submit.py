"""`ray job submit --working-dir . -- python -m distributed.train ...` on a real cluster: logs, figures, exit codes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed import checkpoint
from distributed.recipe_file import dump_recipe
from tests.conftest import ROOT
from tests.support.small_runs import small_recipe

pytestmark = pytest.mark.slow

START_LIMIT_S = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ray_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *(str(argument) for argument in arguments)]


@pytest.fixture
def head() -> Iterator[str]:
    """The dashboard's address of a one-node cluster that `ray start` made, apart from all others on this machine."""
    # Sockets have their path's length limited: not pytest's own folders.
    folder = tempfile.mkdtemp(prefix="mm-")
    ports = {"--port": free_port(), "--dashboard-port": free_port(), "--dashboard-agent-listen-port": free_port()}
    options = [part for pair in ports.items() for part in pair]
    process = subprocess.Popen(
        ray_command("start", "--head", "--block", "--num-cpus", 2, "--temp-dir", folder, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{ports['--dashboard-port']}"
    try:
        end = time.monotonic() + START_LIMIT_S
        while submit(address, "true").returncode:  # until it takes jobs
            assert process.poll() is None, "the cluster's head died"
            assert time.monotonic() < end, "the cluster takes no jobs"
            time.sleep(1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def submit(address: str, *entrypoint: object) -> subprocess.CompletedProcess[str]:
    working = ["--working-dir", "."] if len(entrypoint) > 1 else []
    return subprocess.run(
        ray_command("job", "submit", "--address", address, *working, "--", *entrypoint),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )


def test_a_submitted_job_trains_and_a_mistake_fails_it(head: str, data: Path, tmp_path: Path) -> None:
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
