"""The processes of a local cluster: started apart from all others, found again by a mark, ended to the last one."""

import os
import signal
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

MARK = "MELTMATCH_CLUSTER"
"""An environment variable that whatever a cluster starts inherits; its value is the cluster's own."""
GRACE_S = 15.0
"""What a node may take to end by itself."""


def start(arguments: Iterable[object], mark: str, log: Path, environment: Mapping[str, str]) -> int:
    """Starts `ray ARGUMENTS` in a session of its own, with its output in `log` -> its process id."""
    scripts = sysconfig.get_path("scripts")  # where workers find ninja, for DeepSpeed's operator
    inherited = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    with log.open("wb") as output, Path(os.devnull).open("rb") as nothing:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "ray.scripts.scripts", *map(str, arguments)],
            {**inherited, MARK: mark, **environment},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
            setsid=True,
        )


def marked(mark: str) -> list[psutil.Process]:
    """All living processes that carry the mark, and all that these have started.

    The latter count too, because a process that gives itself a name may write it over its environment.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid not in found and process.environ().get(MARK) == mark:
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    return [process for process in found.values() if alive(process)]


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        process = psutil.Process(pid)
        return [p for p in (process, *process.children(recursive=True)) if alive(p)]
    except psutil.NoSuchProcess:
        return []


def end(processes: list[psutil.Process], grace_s: float = GRACE_S) -> None:
    """Asks the processes to end, and kills those that do not."""
    _signal(processes, signal.SIGTERM)
    limit = time.monotonic() + grace_s
    while time.monotonic() < limit and any(map(alive, processes)):
        time.sleep(0.1)
    kill(processes)


def kill(processes: list[psutil.Process]) -> None:
    """Kills the processes, as a power cut would."""
    _signal(processes, signal.SIGKILL)
    while any(map(alive, processes)):
        time.sleep(0.05)
    for process in processes:
        with suppress(ChildProcessError):  # not this process's own child
            os.waitpid(process.pid, os.WNOHANG)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
