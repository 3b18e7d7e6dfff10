"""An S3 server of moto's on this machine, behind a network that can be cut."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from distributed.storage import Mirror


class S3:
    """The server as a process of its own. Clients go through this process, which passes their bytes on."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for the server's log, and for what cuts the network."""
        self.folder = folder
        self.refused = 0
        """Connections, while the network was cut."""
        self._passed = 0
        self._counting = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._server = free.getsockname()
        with (self.folder / "server.log").open("wb") as log:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._server[1])]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while True:
            with suppress(OSError), socket.create_connection(self._server):
                break
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.05)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there
        self._process.terminate()
        self._process.wait()
        for thread in self._threads:
            thread.join()

    def bucket(self, name: str) -> str:
        """Makes a bucket -> the URI of a folder in it."""
        request = urllib.request.Request(f"http://{self.address}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - an address of this class's own
        return self.uri(name)

    def uri(self, bucket: str) -> str:
        return f"s3://{bucket}/runs?endpoint_override={quote(self.address, safe='')}&scheme=http"

    def _start(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:  # shut down
                    return
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if not self._may_pass(0):
                self.refused += 1
                return
            with socket.create_connection(self._server) as server:
                back = threading.Thread(target=self._pass, args=(server, client, False), daemon=True)
                back.start()
                self._pass(client, server, True)
                back.join()

    def _may_pass(self, size: int) -> bool:
        with self._counting:
            if not (self.folder / "cut").exists():
                self._passed = 0
                return True
            self._passed += size
            return self._passed < int((self.folder / "cut").read_text())

    def _pass(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while (chunk := source.recv(2**16)) and self._may_pass(len(chunk) if counts else 0):
                target.sendall(chunk)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def cut_after(folder: Path, size: int) -> None:
    """From now on the network of the server in `folder` breaks down after `size` more bytes, until `mend`."""
    draft = folder / f"cut.{os.getpid()}"
    draft.write_text(str(size))
    draft.replace(folder / "cut")


def mend(folder: Path) -> None:
    (folder / "cut").unlink()


def names_in(mirror: Mirror) -> set[str]:
    """Every file of a run's place."""
    return set(mirror.files(""))
