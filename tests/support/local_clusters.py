"""Commands on a local cluster of several nodes: runs in processes of their own, watched and disturbed from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from cluster.local_cluster import LocalCluster
from cluster.processes import family
from distributed import checkpoint
from distributed.metrics_file import read_metrics
from tests.conftest import ROOT

LIMIT_S = 240.0
"""After which something that is waited for is given up: far longer than it takes."""


class Driver:
    """A command of the project, at work on a cluster."""

    def __init__(self, made: LocalCluster, output: Path, *arguments: object) -> None:
        environment = {**os.environ, **made.environment(), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments)],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def until(self, there: Callable[[], Any], what: str) -> None:
        """Waits until something is there, while the command runs."""
        end = time.monotonic() + LIMIT_S
        while not there():
            assert self.process.poll() is None, f"ended before {what}:\n{self.text}"
            assert time.monotonic() < end, f"no {what}:\n{self.text}"
            time.sleep(0.05)

    def ended(self) -> int:
        """Waits for its end -> its exit code."""
        end = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"hangs:\n{self.text}"
            time.sleep(0.05)
        return int(self.process.returncode)

    def end(self) -> None:
        """Whatever it does, it is over."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def driver(made: LocalCluster, output: Path, *arguments: object) -> Iterator[Driver]:
    """`python -m ARGUMENTS` on the cluster; ended with the block."""
    command = Driver(made, output, *arguments)
    try:
        yield command
    finally:
        command.end()


def workers_of(made: LocalCluster, node: str) -> list[psutil.Process]:
    """The training workers on a node."""
    found = []
    for process in family(made.nodes[node]):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::RayTrainWorker"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def busy_nodes(made: LocalCluster) -> list[str]:
    """The nodes that have training workers now."""
    return [name for name in made.nodes if name != "head" and workers_of(made, name)]


def newest_step(run: Path) -> int:
    """Of the complete checkpoints; 0 without any."""
    complete = [folder for folder in checkpoint.candidates(run) if (folder / checkpoint.MANIFEST).exists()]
    return int(complete[0].name.removeprefix("step-")) if complete else 0


def logged_step(run: Path) -> int:
    """The last step in the log; 0 without any."""
    log = run / "metrics.jsonl"
    records = read_metrics(log) if log.exists() else []
    return int(records[-1]["step"]) if records else 0
