"""Ray clusters that `ray start` makes, apart from all others on this machine, for tests of jobs."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

START_LIMIT_S = 120


class Head(NamedTuple):
    """A cluster of one node."""

    address: str
    """The dashboard's."""
    folder: Path
    """Where the cluster keeps its logs, and the packages of its jobs."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ray_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *(str(argument) for argument in arguments)]


@contextmanager
def running_head(cpus: int = 2) -> Iterator[Head]:
    """A head that takes jobs. A job that is told to stop has a minute to write its checkpoint."""
    # Sockets have their path's length limited: not pytest's own folders.
    folder = tempfile.mkdtemp(prefix="mm-")
    ports = {"--port": free_port(), "--dashboard-port": free_port(), "--dashboard-agent-listen-port": free_port()}
    options = [part for pair in ports.items() for part in pair]
    process = subprocess.Popen(
        ray_command("start", "--head", "--block", "--num-cpus", cpus, "--temp-dir", folder, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"RAY_JOB_STOP_WAIT_TIME_S": "60", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1"},
    )
    address = f"http://127.0.0.1:{ports['--dashboard-port']}"
    try:
        end = time.monotonic() + START_LIMIT_S
        ready = ray_command("job", "submit", "--address", address, "--", "true")
        while subprocess.run(ready, capture_output=True, check=False).returncode:  # until it takes jobs
            assert process.poll() is None, "the cluster's head died"
            assert time.monotonic() < end, "the cluster takes no jobs"
            time.sleep(1)
        yield Head(address, Path(folder))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


class Tunnel:
    """Forwards a port of this machine to another one, like `ssh -L` or `kubectl port-forward`, until it is cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self) -> None:
        """Drops every connection; new ones are let through."""
        for end in self._sockets:
            with suppress(OSError):  # the other side has closed it already
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for a connection
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        for end in (self._listener, *self._sockets):
            end.close()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets.append(far)
                self._start(self._pump, near, far)
                self._start(self._pump, far, near)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # cut
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
