"""The network between two nodes is cut without a word: a run goes on with those it still reaches, or says why not."""

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from cluster import processes
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe
from tests.conftest import ROOT
from tests.support.local_clusters import LIMIT_S, logged_step
from tests.support.networks import Network, network
from tests.support.small_runs import small_recipe

pytestmark = pytest.mark.rehearsal

PORT = 6379
TIMEOUT_S = 15
TOLD = ("the workers lost each other", "its node has died")
"""By a worker that waited for the others, or by Ray, whichever notices first."""


@contextmanager
def machines(lines: Network, folder: Path) -> Iterator[None]:
    """A head without CPUs and two nodes of one CPU each, every one on a machine of its own."""
    running = []
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "GLOO_SOCKET_IFNAME": "eth0",  # the host's name stands for 127.0.0.1 here
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        for number in range(1, lines.count + 1):
            own = ["--node-ip-address", lines.address(number), "--temp-dir", str(folder / str(number))]
            role = ["--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "False"]
            if number > 1:
                role = ["--address", f"{lines.address(1)}:{PORT}", "--num-cpus", "1"]
            command = [*lines.inside(number), sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
            command += [*own, *role, "--object-store-memory", str(100 * 2**20), "--disable-usage-stats"]
            with (folder / f"{number}.log").open("wb") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(8)
        yield
    finally:
        for process in reversed(running):
            processes.end([p for p in processes.family(process.pid) if p.pid != process.pid], grace_s=5)
            process.kill()
            process.wait()


def train(lines: Network, folder: Path, recipe: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RAY_ADDRESS": f"{lines.address(1)}:{PORT}", "RAY_AUTH_MODE": "disabled"}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [*lines.inside(1), sys.executable, "-m", "distributed.train", str(recipe)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait(training: subprocess.Popen[bytes], until: int, run: Path, output: Path) -> None:
    end = time.monotonic() + LIMIT_S
    while logged_step(run) < until:
        assert training.poll() is None, output.read_text(errors="replace")
        assert time.monotonic() < end, output.read_text(errors="replace")
        time.sleep(0.1)


@pytest.mark.parametrize("elastic", [True, False])
def test_a_cut_network_hangs_no_run(data: Path, tmp_path: Path, elastic: bool) -> None:
    steps = 3000
    settings = {
        "training.epochs": steps // 3,
        "training.evaluate_every": steps // 3,
        "checkpoint.every_steps": 20,
        "checkpoint.every_epochs": steps,
        "scaling.workers": 2,
        "scaling.min_workers": 1 if elastic else None,
        "scaling.collective_timeout_s": TIMEOUT_S,
        "scaling.max_failures": 1,
    }
    recipe = small_recipe(data, tmp_path / "runs", settings)
    path, run, output = tmp_path / "recipe.yaml", recipe.folder, tmp_path / "output"
    path.write_text(dump_recipe(recipe))
    with ExitStack() as stack:
        lines = stack.enter_context(network(3, "mm"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mm-")))
        stack.enter_context(machines(lines, folder))
        training = train(lines, tmp_path, path)
        try:
            wait(training, 60, run, output)
            before = logged_step(run)
            cut = time.monotonic()
            lines.pull(3)
            if elastic:
                wait(training, before + 60, run, output)
                print(f"{time.monotonic() - cut:.0f} s after the cut the run was 60 steps on")
            else:  # there is no second node for its second worker: it waits for one, and says so
                end = time.monotonic() + LIMIT_S
                while not any(told in output.read_text(errors="replace") for told in TOLD):
                    assert time.monotonic() < end, output.read_text(errors="replace")
                    time.sleep(0.2)
                lines.plug(3)  # its node is dead to the cluster by now; its raylet ends itself
                print(f"{time.monotonic() - cut:.0f} s after the cut it was said")
        finally:
            for process in processes.family(training.pid):
                with_children = psutil.Process(process.pid) if psutil.pid_exists(process.pid) else None
                if with_children is not None:
                    processes.kill([with_children])
            training.wait()
    text = output.read_text(errors="replace")
    print("\n".join(line for line in text.splitlines() if "resumed" in line or any(told in line for told in TOLD)))
    assert "resumed from step" in text or any(told in text for told in TOLD)
    logged = [record["step"] for record in read_metrics(run / "metrics.jsonl")]
    assert logged == list(range(1, len(logged) + 1))
