"""`python -m cluster.submit` against a real cluster: logs, exit codes, secrets, one job a run, stop and go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.job_package import SECRETS
from distributed import checkpoint
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe
from tests.conftest import ROOT
from tests.support.heads import Head, Tunnel, ray_command
from tests.support.small_runs import small_recipe

pytestmark = pytest.mark.slow

KEY = "fedcba9876543210fedcba9876543210fedcba98"
DIGITS = ["training.epochs=6", "training.evaluate_every=6", "training.log_every=1", "checkpoint.every_steps=4"]
STEPS = 6 * 19
DIGITS += ["model.widths=[4, 8, 16]", "tracking.wandb=disabled"]


def command(address: str, *words: object) -> list[str]:
    return [sys.executable, "-m", "cluster.submit", "--address", address, *(str(word) for word in words)]


def submit(address: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(address, *words),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"} | environment,
        text=True,
        capture_output=True,
        check=False,
    )


class Following:
    """A submission with --wait in the background, and what it has printed so far."""

    def __init__(self, address: str, *words: object) -> None:
        self.process = subprocess.Popen(
            command(address, "--wait", *words),
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self.threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for thread in self.threads:
            thread.start()

    def _read(self, stream: IO[str], into: list[str]) -> None:
        with stream:
            into.extend(iter(stream.readline, ""))  # grows line by line

    def wait_for(self, text: str) -> None:
        while not any(text in line for line in [*self.out, *self.err]):
            assert self.process.poll() is None, (self.out, self.err)
            time.sleep(0.1)

    def end(self) -> int:
        code = self.process.wait()
        for thread in self.threads:
            thread.join()
        return code


def wait_for_end(client: JobSubmissionClient, job: str) -> JobStatus:
    while not (status := client.get_job_status(job)).is_terminal():
        time.sleep(0.5)
    return status


@pytest.fixture
def tunnel(head: Head) -> Iterator[Tunnel]:
    tunnel = Tunnel(int(head.address.rpartition(":")[2]))
    yield tunnel
    tunnel.close()


def test_the_exit_code_and_each_line_come_back_also_over_a_dropped_connection(tunnel: Tunnel) -> None:
    count = "import sys, time\nfor n in range(8):\n    print('line', n); time.sleep(1)\nsys.exit(3)"
    following = Following(f"http://127.0.0.1:{tunnel.port}", "--", "python", "-c", count)
    following.wait_for("line 2\n")
    tunnel.cut()
    assert following.end() == 3
    assert [line for line in following.out if line.startswith("line")] == [f"line {n}\n" for n in range(8)]
    assert "FAILED (exit code 3)" in following.err[-1]


def test_ctrl_c_leaves_the_job_alone_and_its_twin_is_refused(head: Head) -> None:
    words = ("--entrypoint-resources", '{"not-there": 1}', "--", "echo", "never")
    following = Following(head.address, "--submission-id", "waits", *words)
    following.wait_for("job waits: PENDING: ")
    following.process.send_signal(signal.SIGINT)
    assert following.end() == 130
    assert "job waits goes on" in "".join(following.err)
    assert f"ray job stop --address {head.address} waits" in following.err[-1]
    assert JobSubmissionClient(head.address).get_job_status("waits") == JobStatus.PENDING

    twin = submit(head.address, *words)
    assert (twin.returncode, twin.stdout, twin.stderr.count("\n")) == (2, "", 1)
    assert "job waits with the same command is PENDING" in twin.stderr
    assert f"ray job logs --address {head.address} waits --follow" in twin.stderr


def test_without_wait_it_says_how_to_go_on(head: Head) -> None:
    done = submit(head.address, "--submission-id", "once", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith(f"job once submitted to {head.address}: ")
    assert wait_for_end(JobSubmissionClient(head.address), "once") == JobStatus.SUCCEEDED
    again = submit(head.address, "--submission-id", "once", "--", "false")
    assert again.returncode == 2
    assert "Job with submission_id once already exists" in again.stderr
    assert again.stderr.count("\n") == 1


def test_a_run_with_secrets_shows_them_nowhere_and_goes_on(head: Head, data: Path, tmp_path: Path) -> None:
    """NeuMATCH. That W&B is tried at all, on the node of the run's first worker, shows that the key came there."""
    path, run = tmp_path / "recipe.yaml", tmp_path / "runs" / "run"
    path.write_text(dump_recipe(small_recipe(data, tmp_path / "runs", {"tracking.wandb": "auto"})))
    train = ("--", "python", "-m", "distributed.train", path)
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9"}

    done = submit(head.address, "--wait", *train, **nobody, WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished run: step 6" in done.stdout
    assert "W&B is offline: " in done.stdout
    assert "upload later" in done.stdout

    listed = subprocess.run(
        ray_command("job", "list", "--address", head.address), capture_output=True, text=True, check=True
    )
    served = requests.get(f"{head.address}/api/jobs/", timeout=60).text
    shown = served + listed.stdout + listed.stderr + done.stdout + done.stderr
    assert nobody["WANDB_BASE_URL"] in shown  # as the key would be
    assert KEY not in shown
    logs = head.folder / "session_latest" / "logs"
    files = [file for folder in (run, logs) for file in folder.rglob("*") if file.is_file()]
    assert any(file.name.startswith("job-driver") for file in files)
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    unpacked = head.folder.glob(f"session_latest/runtime_resources/working_dir_files/*/{SECRETS}")
    [secrets] = [file for file in unpacked if KEY in file.read_text()]  # jobs of other tests have theirs
    assert json.loads(secrets.read_text()) == {"WANDB_API_KEY": KEY}
    assert secrets.stat().st_mode & 0o077 == 0
    assert not (ROOT / SECRETS).exists()

    wrong = submit(head.address, "--wait", *train, "training.epoch=3", **nobody)
    assert wrong.returncode == 2  # the job's own
    [line] = [line for line in wrong.stdout.splitlines() if line.startswith("error: ")]
    assert "training.epoch" in line
    assert "did you mean" in line
    assert "Traceback" not in wrong.stdout + wrong.stderr

    again = submit(head.address, "--wait", *train, **nobody, WANDB_API_KEY=KEY)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resumed from step 6" in again.stdout
    assert "finished run: step 6" in again.stdout


def test_a_stopped_run_goes_on_and_has_one_job_at_a_time(head: Head, tmp_path: Path) -> None:
    """MELTR, with a recipe of the checkout."""
    run = tmp_path / "digits-meltr"
    train = ("--", "python", "-m", "distributed.train", "digits_meltr", f"storage={tmp_path}", *DIGITS)
    following = Following(head.address, "--submission-id", "first", *train)
    following.wait_for("job first: RUNNING")

    second = submit(head.address, *train, "training.epochs=9")  # another command, the same run
    assert (second.returncode, second.stdout, second.stderr.count("\n")) == (2, "", 1)
    assert "job first of the same run is RUNNING" in second.stderr

    while checkpoint.newest(run, warn=False) is None:
        assert following.process.poll() is None, (following.out, following.err)
        time.sleep(0.2)
    stop = ray_command("job", "stop", "--address", head.address, "first")
    subprocess.run(stop, capture_output=True, check=True)
    assert following.end() == 143
    assert "job first: STOPPED" in following.err[-1]
    stopped = checkpoint.newest(run, warn=False)
    assert stopped is not None
    assert stopped.step < STEPS

    again = submit(head.address, "--wait", *train)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resumed from step {stopped.step} " in again.stdout
    assert f"finished digits-meltr: step {STEPS}" in again.stdout
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == list(range(1, STEPS + 1))
