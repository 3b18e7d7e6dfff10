"""What the doctor looks at on each node: functions that return plain dicts, and the actor that answers with them.

Runs on nodes that hold no checkout: this file and those it imports from here travel with the doctor, and need nothing
but Python and Ray. Torch, pyarrow and nvidia-smi are asked only where they are.
"""

import netrc
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.meeting import Meeting
from cluster.shared import read_files, remove_file, write_file

Facts = dict[str, Any]
"""What a node says of itself; plain values alone."""

_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits")
_LIMIT_S = 15.0  # for a program on the node: nvidia-smi on a sick driver may take for ever
_DEFAULT_WANDB = "https://api.wandb.ai"


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The version of each package, empty where it is not installed. Nothing is imported."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def python_version() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])


def building() -> Facts:
    """What DeepSpeed needs to build its op: compiler and ninja, or the op, built already."""
    folder = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(folder) if folder else cache / "meltmatch" / "operators"
    return {
        "compiler": shutil.which(os.environ.get("CXX", "c++")) or "",
        "ninja": shutil.which("ninja") or "",
        "ops": sorted(path.stem for path in root.glob("**/*.so")),
    }


def gpus(expected: bool) -> Facts:
    """GPUs by nvidia-smi and by torch; torch is imported only where nvidia-smi or Ray (`expected`) knows of any."""
    facts: Facts = {"smi": [], "smi_error": "", "torch": None, "cuda": None}
    if shutil.which(_SMI[0]):
        try:
            answer = subprocess.run(_SMI, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
            if answer.returncode:
                facts["smi_error"] = " ".join((answer.stdout + answer.stderr).split())[:200]
            else:
                facts["smi"] = [_gpu(line) for line in answer.stdout.splitlines() if line.strip()]
        except (OSError, subprocess.TimeoutExpired) as error:
            facts["smi_error"] = " ".join(str(error).split())[:200]
    if facts["smi"] or facts["smi_error"] or expected:
        try:
            import torch

            facts |= {"torch": torch.cuda.device_count(), "cuda": torch.version.cuda}
        except (ImportError, OSError) as error:  # a missing library of CUDA is an OSError
            facts["torch_error"] = str(error)[:200]
    return facts


def _gpu(line: str) -> Facts:
    # A name may hold a comma, the other three do not.
    name, driver, total, free = (part.strip() for part in line.rsplit(",", 3))
    return {"name": name, "driver": driver, "total_mb": _number(total), "free_mb": _number(free)}


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None  # "[N/A]" on cards that share the memory of their host


def room(temporary: str) -> Facts:
    """Shared memory, disk under Ray's temporary folder, open files and threads: what this node has, and its limits."""
    shared, disk = shutil.disk_usage("/dev/shm"), shutil.disk_usage(temporary)  # noqa: S108 - Ray's object store
    used, limit = _threads()
    return {
        "shm_total": shared.total,
        "shm_free": shared.free,
        "temporary": temporary,
        "disk_total": disk.total,
        "disk_free": disk.free,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "threads": used,
        "threads_limit": limit,
    }


def _threads() -> tuple[int, int | None]:
    """Threads in use and how many there may be, by the container if it has a limit, else by the user's."""
    for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids")):
        try:
            limit = (folder / "pids.max").read_text().strip()
            if limit != "max":
                return int((folder / "pids.current").read_text()), int(limit)
        except (OSError, ValueError):  # the other version of cgroups, or none
            continue
    me, used = os.getuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == me:
                used += len(list((process / "task").iterdir()))
        except OSError:  # it has just ended
            continue
    limit_here = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return used, None if limit_here == resource.RLIM_INFINITY or me == 0 else limit_here  # root has no limit


def wandb(mode: str | None, base_url: str | None, limit_s: float) -> Facts:
    """Whether W&B's server answers from here and whether there is a key; `mode` and `base_url` None: as set here."""
    mode = mode or os.environ.get("WANDB_MODE", "")
    url = base_url or os.environ.get("WANDB_BASE_URL") or _DEFAULT_WANDB
    parts = urlsplit(url)
    facts: Facts = {"mode": mode, "host": parts.hostname or url, "error": "", "key": _has_key(parts.netloc)}
    if mode in {"offline", "disabled"}:
        return facts
    outcome = ["no answer"]

    def call() -> None:
        outcome[0] = _reach(url, limit_s)

    # Looking a name up knows no time limit: a thread that does not end is left behind.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(limit_s)
    facts["error"] = outcome[0]
    return facts


def _reach(url: str, limit_s: float) -> str:
    if urlsplit(url).scheme not in {"http", "https"}:
        return "not an http(s) address"
    try:
        urllib.request.urlopen(url, timeout=limit_s).close()  # noqa: S310 - its scheme was looked at
    except urllib.error.HTTPError:  # an answer, of whatever status
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))[:120]
    return ""


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for file in files:
        try:
            if netrc.netrc(str(Path(file).expanduser())).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def autoscaler(gcs_address: str) -> Facts:
    """On the head: the groups of nodes that an autoscaler may start, as far as this node can know."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended, or is another user's
            continue
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
        ours = options.get("gcs-address") == gcs_address and any(word.endswith("/monitor.py") for word in words)
        if ours and (file := options.get("autoscaling-config")):
            return {"kind": "ray", "groups": _groups(Path(file).expanduser())}
    # KubeRay's autoscaler runs in a container of its own, and its groups stand in the RayCluster alone.
    if "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", ""):
        return {"kind": "kuberay", "groups": [], "name": os.environ.get("RAY_CLUSTER_NAME", "")}
    return {"kind": "", "groups": []}


def _groups(file: Path) -> list[Facts]:
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        head, types = config.get("head_node_type"), config["available_node_types"]
        return [
            {"name": str(name), "max": int(group.get("max_workers", 0)), "resources": dict(group.get("resources", {}))}
            for name, group in types.items()
            if name != head
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        return []  # the doctor then says that there is an autoscaler whose groups it does not know


class Probe(Meeting):
    """One on each node. An actor, so that torch is imported once and sockets outlive the question that opened them."""

    def facts(self, packages: Sequence[str], gpus_expected: bool) -> Facts:
        """Everything that the node knows without asking others."""
        import ray
        from ray._private import worker

        node: Any = worker._global_node
        return {
            "python": python_version(),
            "packages": installed(packages),
            "gpus": gpus(gpus_expected),
            "autoscaler": autoscaler(ray.get_runtime_context().gcs_address),
            **building(),
            **room(node.get_session_dir_path()),
        }

    def clock(self) -> float:
        """Seconds since the epoch, by this node's clock."""
        return time.time()

    def wandb(self, mode: str | None, base_url: str | None, limit_s: float) -> Facts:
        return wandb(mode, base_url, limit_s)

    def write(self, place: str, name: str, text: str) -> Facts:
        return write_file(place, name, text)

    def read(self, place: str, names: Sequence[str]) -> dict[str, str]:
        return read_files(place, names)

    def remove(self, place: str, name: str) -> str:
        return remove_file(place, name)
