"""A Ray cluster of several nodes on this machine: what `python -m cluster.local` and rehearsals are made of."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster import processes
from cluster.command import UserError
from cluster.fake_cloud import HEAD, HEAD_ID, Cloud, node_environment

START_S = 120.0
"""How long the head, or a node, may take to come up."""
STORE_BYTES = 200 * 2**20
"""Of shared memory for each node: training needs little, and all nodes share this machine's."""


EVERY_NODE: tuple[object, ...] = ("--block", "--node-ip-address", "127.0.0.1")
EVERY_NODE += ("--min-worker-port", 0, "--max-worker-port", 0, "--object-store-memory", STORE_BYTES)
MORE_NODES = ("--dashboard-agent-listen-port", 0)


@dataclass
class LocalCluster:
    """What is known of a running cluster; kept in a file so that other commands find it."""

    name: str
    mark: str
    folder: str
    """Ray's own: sessions, logs, sockets."""
    port: int
    dashboard_port: int
    auth: str
    nodes: dict[str, int] = field(default_factory=dict)
    """The process of each node by name; `head` is the first."""
    started: int = 0
    """Nodes beside the head so far, with those that are gone: a name is used once."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @classmethod
    def load(cls, name: str) -> "LocalCluster":
        """Raises UserError where there is none of this name."""
        file = _file(name)
        if not file.exists():
            there = sorted(path.stem for path in file.parent.glob("*.json"))
            also = f"; there are: {', '.join(there)}" if there else ""
            raise UserError(f"no local cluster named {name!r}{also}; start one: python -m cluster.local start")
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def save(self) -> None:
        file = _file(self.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        draft.replace(file)

    def listed(self) -> list[dict[str, Any]]:
        """The nodes as Ray lists them; empty while the dashboard does not answer."""
        try:
            with urllib.request.urlopen(f"{self.dashboard}/api/v0/nodes?limit=1000", timeout=5) as answer:  # noqa: S310
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
                return found
        except (OSError, ValueError, KeyError):
            return []

    def living(self) -> list[dict[str, Any]]:
        """Those that are alive."""
        return [node for node in self.listed() if node["state"] == "ALIVE"]

    def node_id(self, name: str) -> str:
        """Ray's id of a living node."""
        living = {node["node_name"]: node["node_id"] for node in self.living()}
        if name not in living:
            raise UserError(f"no living node {name!r}; there are: {', '.join(sorted(living)) or 'none'}")
        return str(living[name])

    def environment(self) -> dict[str, str]:
        """What every command that talks to this cluster needs."""
        return {"RAY_ADDRESS": self.address, "RAY_API_SERVER_ADDRESS": self.dashboard, "RAY_AUTH_MODE": self.auth}


def _file(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"--name {name!r}: expected letters, digits, '.', '_' and '-'")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "meltmatch" / "clusters" / f"{name}.json"


def start(
    name: str,
    nodes: int,
    resources: Sequence[object],
    head: Sequence[object] = ("--num-cpus", 0, "--num-gpus", 0),
    cloud: Cloud | None = None,
) -> LocalCluster:
    """Starts a head and `nodes` nodes; with a `cloud`, nodes come and go by themselves. Returns when all are there.

    Raises:
        UserError: there is one of this name already, or a process did not come up; says where its output is.
    """
    if _file(name).exists():
        old = LocalCluster.load(name)
        if processes.marked(old.mark):
            raise UserError(
                f"local cluster {name!r} is running; stop it (python -m cluster.local stop) or give a --name"
            )
        stop(old)
    auth = os.environ.get("RAY_AUTH_MODE", "disabled")
    # Sockets have their path's length limited, and so this folder is not in the cache.
    folder = tempfile.mkdtemp(prefix="mm-")
    port, dashboard_port = _free_ports(2)
    made = LocalCluster(name, secrets.token_hex(8), folder, port, dashboard_port, auth)
    made.save()
    try:
        _start_head(made, head, cloud)
        for _ in range(nodes):
            add(made, resources)
    except BaseException:
        stop(made)
        raise
    return made


def _start_head(made: LocalCluster, head: Sequence[object], cloud: Cloud | None) -> None:
    # `ray job stop` leaves a run time for its step and its checkpoint.
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": "120", "RAY_health_check_period_ms": "1000"}
    options: list[object] = ["--port", made.port, "--dashboard-host", "127.0.0.1"]
    options += ["--dashboard-port", made.dashboard_port]
    agent, client = _free_ports(2)
    options += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client, "--temp-dir", made.folder]
    if cloud is not None:
        file = Path(made.folder) / "autoscaler.json"
        options_of_nodes = ["--address", made.address, *MORE_NODES, *EVERY_NODE]
        machines = {
            "mark": made.mark,
            "folder": made.folder,
            "options": [str(option) for option in options_of_nodes],
            "environment": _environment(made),
        }
        file.write_text(json.dumps(cloud.config(machines)), encoding="utf-8")
        options += ["--autoscaling-config", file]
        environment |= {"RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        environment |= node_environment(HEAD_ID, HEAD) | {"PYTHONPATH": _with_this_checkout()}
    _ray_start(made, "head", ["--head", *options, *head], environment)
    _wait(made, "head")


def add(made: LocalCluster, resources: Sequence[object]) -> str:
    """Adds a node, and returns when it is there -> its name. One at a time: two at once may choose the same socket."""
    made.started += 1
    name = f"node-{made.started}"
    # A folder of its own, as on a machine of its own: else its agent unpacks a job's files over those of the others.
    own = ["--address", made.address, "--temp-dir", Path(made.folder) / name]
    _ray_start(made, name, [*own, *MORE_NODES, *resources], {})
    _wait(made, name)
    return name


def _environment(made: LocalCluster) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": made.auth,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",  # else a node that is asked to end takes half a minute
        "RAY_raylet_start_wait_time_s": str(int(START_S)),  # a busy machine takes its time
    }


def _with_this_checkout() -> str:
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))


def _ray_start(made: LocalCluster, name: str, options: Sequence[object], environment: dict[str, str]) -> None:
    log = Path(made.folder) / f"{name}.log"
    command = ["start", "--node-name", name, *EVERY_NODE, *options]
    made.nodes[name] = processes.start(command, made.mark, log, {**_environment(made), **environment})
    made.save()


def _wait(made: LocalCluster, name: str) -> None:
    limit = time.monotonic() + START_S
    while name not in [node["node_name"] for node in made.living()]:
        if not processes.family(made.nodes[name]):
            log = Path(made.folder) / f"{name}.log"
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            kept = shutil.copy(log, Path(tempfile.gettempdir()) / f"{made.name}-{name}.log")
            raise UserError(f"{name} of local cluster {made.name!r} ended: {''.join(last)} (all of it: {kept})")
        if time.monotonic() > limit:
            raise UserError(
                f"local cluster {made.name!r}: {name} is not up after {START_S:g} s; is this machine busy? "
                "try again with fewer --nodes"
            )
        time.sleep(0.25)


def kill(made: LocalCluster, node: str) -> None:
    """Takes a node away without a warning: SIGKILL for its raylet, its workers and all else of it."""
    if node not in made.nodes:
        raise UserError(f"no node {node!r} was started here; there are: {', '.join(made.nodes)}")
    processes.kill(processes.family(made.nodes.pop(node)))
    made.save()


def drain(made: LocalCluster, node: str, seconds: int) -> None:
    """Tells the cluster that it will lose a node in so many seconds; who runs there hears of it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", made.address]
    command += ["--node-id", made.node_id(node), "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "rehearsed", "--deadline-remaining-seconds", str(seconds)]
    told = subprocess.run(
        command, env={**os.environ, **made.environment()}, capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise UserError(f"{node} cannot be drained: {(told.stderr or told.stdout).strip().splitlines()[-1]}")


def stop(made: LocalCluster) -> None:
    """Ends every process of the cluster and removes its folder."""
    heads = [process for pid in made.nodes.values() for process in processes.family(pid)[:1]]
    mine = processes.marked(made.mark)
    processes.end([process for process in mine if process in heads])
    processes.end(processes.marked(made.mark), grace_s=2.0)
    shutil.rmtree(made.folder, ignore_errors=True)
    _file(made.name).unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
