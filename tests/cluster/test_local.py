"""`python -m cluster.local`: it starts what it says, and ends all of that and nothing else."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from cluster import local_cluster, processes
from cluster.command import UserError
from cluster.fake_cloud import Cloud
from cluster.local import main
from cluster.local_cluster import LocalCluster
from tests.conftest import ROOT
from tests.support.local_clusters import LIMIT_S


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters of other tests and of whoever uses this machine are not seen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status"], r"no local cluster named 'local'; start one: python -m cluster\.local start"),
        (["stop", "--name", "other"], "no local cluster named 'other'"),
        (["start", "--autoscale", "3"], r"--autoscale '3': expected MIN\.\.MAX nodes, such as 0\.\.3"),
        (["start", "--autoscale", "3..1"], "expected MIN"),
        (["start", "--name", "../other"], "expected letters, digits"),
        (["start", "--cpus", "-1"], "expected 0 or more"),
        (["start", "--resource", "disk"], "expected NAME=AMOUNT"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)


def test_what_the_autoscaler_is_told() -> None:
    config = Cloud.parse("1..3", cpus=2, gpus=1, idle_s=30).config({"mark": "m"})
    kinds = config["available_node_types"]
    assert kinds["worker"]["resources"] == {"CPU": 2, "GPU": 1}
    assert (kinds["worker"]["min_workers"], kinds["worker"]["max_workers"], config["max_workers"]) == (1, 3, 3)
    assert config["idle_timeout_minutes"] == 0.5
    assert config["provider"]["mark"] == "m"


def test_only_marked_processes_are_found(tmp_path: Path) -> None:
    """A process that a marked one has started counts too; one beside it does not."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    nested = f"import subprocess, time; subprocess.Popen({sleep!r}); time.sleep(60)"
    with subprocess.Popen(sleep) as beside:
        marked = subprocess.Popen([sys.executable, "-c", nested], env={**os.environ, processes.MARK: "of this test"})
        while len(processes.family(marked.pid)) < 2:
            assert marked.poll() is None
        found = {process.pid for process in processes.marked("of this test")}
        assert marked.pid in found
        assert len(found) == 2
        assert beside.pid not in found
        processes.end(processes.marked("of this test"), grace_s=5)
        marked.wait()
        assert not any(psutil.pid_exists(pid) and processes.family(pid) for pid in found)
        assert beside.poll() is None
        beside.kill()


def eventually(there: Callable[[], bool]) -> None:
    """A busy dashboard may take its time to list the nodes."""
    end = time.monotonic() + LIMIT_S
    while not there():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.rehearsal
def test_nodes_come_and_go_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "--nodes", "1", "--name", "mine"]) == 0
    shown = capsys.readouterr().out
    made = LocalCluster.load("mine")
    try:
        assert f"RAY_ADDRESS={made.address}" in shown
        eventually(lambda: {node["node_name"] for node in made.living()} == {"head", "node-1"})
        with pytest.raises(UserError, match="local cluster 'mine' is running; stop it"):
            main(["start", "--name", "mine"])
        with pytest.raises(UserError, match="no node 'node-7' was started here; there are: head, node-1"):
            main(["kill", "node-7", "--name", "mine"])
        main(["kill", "node-1", "--name", "mine"])
        main(["add", "--cpus", "3", "--name", "mine"])
        made = LocalCluster.load("mine")
        assert list(made.nodes) == ["head", "node-2"]  # a name is used once
        eventually(lambda: ("node-2", 3) in [(n["node_name"], n["resources_total"].get("CPU")) for n in made.living()])
        everything = processes.marked(made.mark)
        assert len(everything) > 5
    finally:
        main(["stop", "--name", "mine"])
    assert not [process for process in everything if processes.alive(process)]
    assert not Path(made.folder).exists()
    with pytest.raises(UserError, match="no local cluster"):
        LocalCluster.load("mine")


@pytest.mark.slow
def test_a_head_that_does_not_come_up_leaves_nothing() -> None:
    with pytest.raises(UserError, match=r"head of local cluster 'wrong' ended: .*all of it: "):
        local_cluster.start("wrong", 0, (), head=("--no-such-option",))
    with pytest.raises(UserError, match="no local cluster"):
        LocalCluster.load("wrong")


def test_it_needs_nothing_of_the_other_folders() -> None:
    show = "import sys, cluster.local; print(sorted({'models', 'distributed', 'tuning', 'torch'} & set(sys.modules)))"
    command = [sys.executable, "-c", show]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"
