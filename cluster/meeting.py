"""What nodes do together: open sockets to each other, and join one process group. Runs on the nodes."""

import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

_BARRIERS, _ROUNDS = 20, 3


class Meeting:
    """A node's part in it. Methods may run beside each other, in threads of one process."""

    def __init__(self, name: str, address: str) -> None:
        """`name` is said to whoever connects; `address` is the one that the other nodes know."""
        self._name = name
        self._address = address
        self._listener: socket.socket | None = None
        self._stores: list[Any] = []  # kept: a store closes with its last reference

    def listen(self) -> int:
        """Opens a port that tells whoever connects this node's name, and reads nothing -> the port."""
        # On the nodes' own network alone: that is what is to be tried.
        listener = self._listener = socket.create_server((self._address, 0), family=_family(self._address), backlog=256)
        threading.Thread(target=self._greet, args=(listener,), daemon=True).start()
        return int(listener.getsockname()[1])

    def _greet(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: this probe is done
                return
            with connection:
                try:
                    connection.sendall(self._name.encode())
                except OSError:  # the other one has gone; it says so itself
                    continue

    def close(self) -> None:
        """Ends listening and gives up the stores."""
        if self._listener is not None:
            self._listener.close()
        self._stores.clear()

    def reach(self, others: Mapping[str, tuple[str, int]], limit_s: float) -> dict[str, str]:
        """Connects to the others, each with its address and port -> what is wrong with each, empty where it answers."""
        with ThreadPoolExecutor(max_workers=max(1, min(32, len(others)))) as pool:
            tried = {name: pool.submit(_greeted_by, name, *where, limit_s) for name, where in others.items()}
            return {name: outcome.result() for name, outcome in tried.items()}

    def load_torch(self) -> dict[str, str]:
        """Imports torch, which takes seconds -> `error`, empty if it can be used."""
        try:
            import torch.distributed
        except Exception as error:  # a broken installation raises anything
            return {"error": _line(error)}
        return {"error": "" if torch.distributed.is_available() else "this build has no torch.distributed"}

    def open_store(self, limit_s: float) -> int:
        """Opens the store through which a process group's members find each other -> its port."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        listener = socket.create_server((self._address, 0), family=_family(self._address), backlog=256)
        store = TCPStore(
            self._address,
            listener.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=limit_s),
            master_listen_fd=listener.detach(),  # the store's from here on
        )
        self._stores.append(store)
        return int(store.port)

    def join(
        self, backend: str, store: tuple[str, int], rank: int, world: int, gpu: int, megabytes: int, limit_s: float
    ) -> dict[str, Any]:
        """Joins a process group, waits at barriers, sums a tensor of so many MB (0: none), and leaves.

        Returns: `error` (empty if all is well), `barrier_ms`, and `mb_per_s` (None without a tensor): the bandwidth
        of the slowest link as nccl-tests counts it, 2 (n - 1) / n of the tensor in the time that the sum takes.
        """
        import torch
        import torch.distributed as dist

        limit = timedelta(seconds=limit_s)
        try:
            cuda = backend == "nccl"
            if cuda:
                torch.cuda.set_device(gpu)
            found = dist.TCPStore(*store, is_master=False, timeout=limit)  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=found, rank=rank, world_size=world, timeout=limit)
            try:
                device = torch.device("cuda", gpu) if cuda else torch.device("cpu")
                return {"error": "", "barrier_ms": _barrier_ms(device)} | _bandwidth(megabytes, world, device)
            finally:
                dist.destroy_process_group()
        except Exception as error:  # torch and the backends raise kinds of their own
            return {"error": _line(error)}


def _barrier_ms(device: Any) -> float:
    import torch
    import torch.distributed as dist

    one = torch.ones(1, device=device)
    times = []
    for _ in range(_BARRIERS + 1):
        begin = time.perf_counter()
        dist.all_reduce(one)  # a barrier that NCCL also has; `item` waits for the GPU
        one.clamp_(max=1).item()
        times.append(time.perf_counter() - begin)
    return 1000 * sorted(times[1:])[_BARRIERS // 2]  # the first opens the connections


def _bandwidth(megabytes: int, world: int, device: Any) -> dict[str, float | None]:
    import torch
    import torch.distributed as dist

    if not megabytes:
        return {"mb_per_s": None}
    tensor = torch.ones(megabytes * 2**20 // 4, device=device)
    times = []
    for _ in range(_ROUNDS):
        tensor.fill_(1)
        begin = time.perf_counter()
        dist.all_reduce(tensor)
        total = float(tensor[-1].item())
        times.append(time.perf_counter() - begin)
        if total != world:
            raise RuntimeError(f"the sum of {world} ones came out as {total:g}")
    return {"mb_per_s": 2 * (world - 1) / world * megabytes / min(times)}


def _greeted_by(name: str, address: str, port: int, limit_s: float) -> str:
    try:
        with socket.create_connection((address, port), timeout=limit_s) as connection:
            connection.settimeout(limit_s)
            answer = b""
            while part := connection.recv(1024):
                answer += part
    except OSError as error:
        return f"{address}: {_line(error)}"
    return "" if answer.decode(errors="replace") == name else f"{address}: another machine answers at this address"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
