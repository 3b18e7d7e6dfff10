"""`python -m cluster.doctor` on a real cluster of two nodes that asks for a token, and where there is no cluster."""

import http.server
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import ROOT

TOKEN, KEY = secrets.token_hex(32), secrets.token_hex(20)
TRIES = 3  # on a busy machine a node may give up while it starts


class Head(NamedTuple):
    """A running cluster of two nodes."""

    address: str
    worker: subprocess.Popen[str]
    wandb: str
    """A server that answers with 404."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_", "GLOO_"))}
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"  # where DeepSpeed finds ninja
    return kept | {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "RAY_USAGE_STATS_ENABLED": "0"} | changes


WITH_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@contextmanager
def node(*options: object) -> Iterator[subprocess.Popen[str]]:
    """`ray start` with these options, once it is up; ended afterwards."""
    for _ in range(TRIES):
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(**WITH_TOKEN, WANDB_API_KEY=KEY),
        )
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            process.wait()
            process.stdout.close()
            continue
        break
    else:
        pytest.fail("a node does not start:\n" + "".join(said))
    # What it goes on to say must be read, or it would wait for its reader.
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    folder = tempfile.mkdtemp(prefix="mm-")  # sockets have their path's length limited: not pytest's own folders
    port = free_port()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        agents = [f"--dashboard-agent-listen-port={free_port()}" for _ in range(2)]
        stack.enter_context(
            node("--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false", agents[0])
        )
        worker = stack.enter_context(node(f"--address=127.0.0.1:{port}", agents[1]))
        yield Head(f"127.0.0.1:{port}", worker, f"http://127.0.0.1:{server.server_port}")


def doctor(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.doctor", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
    )


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """The table's cells by check, one for each node."""
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line]
    return {check: cells for check, *cells in lines}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that a user's mistake ends."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.slow
def test_two_nodes_are_examined(head: Head, tmp_path: Path) -> None:
    done = doctor(head.address, "--storage", tmp_path, WANDB_BASE_URL=head.wandb, **WITH_TOKEN)
    cells = rows(done)
    assert cells["answers"] == ["yes", "yes"], done
    assert len(set(cells["torch"])) == 1
    assert cells["GPUs"] == ["none", "none"]
    assert cells["clock"] == [cell for cell in cells["clock"] if "FAILED" not in cell]
    assert cells["reaches others"] == ["all 1", "all 1"]
    assert all(cell.startswith("barrier ") for cell in cells["gloo"]), done.stdout
    assert all(cell.endswith("MB/s") for cell in cells["gloo all_reduce"])
    assert all(cell.startswith("shared, ") for cell in cells["storage"])
    assert (cells["W&B"], cells["W&B key"]) == (["reached"] * 2, ["yes"] * 2)
    assert KEY not in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    # The rest is this machine's own: its disk may be full, its compiler missing.
    assert done.returncode == ("FAILED" in done.stdout), done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_a_hanging_node_and_storage_without_leave_to_write_are_named(head: Head) -> None:
    raylet = raylet_of(head.worker)
    raylet.suspend()
    try:
        options = ("--storage", "/proc", "--limit", 15, "--no-bandwidth")
        done = doctor(head.address, *options, WANDB_MODE="offline", **WITH_TOKEN)
    finally:
        raylet.resume()
    assert done.returncode == 1, done
    cells = rows(done)
    assert cells["answers"] == ["yes", "FAILED: no answer"]
    assert cells["storage"] == ["FAILED: cannot write", ""]
    assert cells["W&B"] == ["skipped: offline", ""]
    assert "gloo all_reduce" not in cells
    assert "-> look at the node" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 checks failed: answers, storage"


def raylet_of(process: subprocess.Popen[str]) -> psutil.Process:
    (raylet,) = [child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "raylet"]
    return raylet


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_says_how_to_give_it(head: Head) -> None:
    none = refused(doctor(head.address, RAY_AUTH_MODE="disabled"))
    assert "401" in none
    assert "RAY_AUTH_MODE is disabled" in none
    assert "RAY_AUTH_TOKEN_PATH" in none
    other = refused(doctor(head.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)))
    assert "the one that this process has is another" in other


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("ray://127.0.0.1:1", "nothing answers there"),
        ("head", "expected HOST:PORT"),
        ("http://127.0.0.1:8265", "python -m cluster.submit"),
    ],
)
def test_where_no_cluster_is_one_line_says_so(address: str, word: str) -> None:
    line = refused(doctor(address, RAY_AUTH_MODE="disabled"))
    assert address in line
    assert word in line


def test_a_port_of_something_else_is_not_waited_for() -> None:
    script = "import cluster.joining as j; j._ANSWER_S = 1; import cluster.doctor as d; d.main_of(d.doctor)"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-c", script, f"127.0.0.1:{port}"]
        env = environment(RAY_AUTH_MODE="disabled")
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert "does not answer as a cluster's head" in refused(done)
