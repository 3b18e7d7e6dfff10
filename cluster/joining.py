"""Joins a running Ray cluster as a driver, and says within seconds, in one line, why that does not work.

Ray itself tries for minutes where nothing listens, and its errors name neither the address nor the remedy.
"""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cluster.command import UserError

T = TypeVar("T")

_CONNECT_S = 4.0
_ANSWER_S = 10.0
_REMEDY = (
    "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN) with the head's token, which stands "
    "there in ~/.ray/auth_token if it was given no other"
)
AS_A_JOB = "python -m cluster.submit --wait -- python -m cluster.doctor"


class VersionMismatchError(Exception):
    """The cluster runs another Python or Ray than this process; the message is one line that says which."""


def join(address: str | None, limit_s: float) -> str:
    """Joins the cluster at `address` (host:port, ray://host:port, or auto), else at RAY_ADDRESS -> where that was.

    Raises:
        UserError: there is no such cluster, it asks for another token, or this machine is not one of its nodes.
        VersionMismatchError: Ray lets nobody in who has another Python or Ray.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address.startswith(("http://", "https://")):
        raise UserError(f"{address}: is a dashboard, and the doctor joins the cluster itself; run it there: {AS_A_JOB}")
    if not address.startswith("ray://"):
        address = _gcs_address(address)
    where = address.removeprefix("ray://")
    host, port = _host_and_port(where)
    _check_token()
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"{address}: nothing answers there ({error}); give the address that `ray start --head` printed, and see "
            "that the head runs and that its port can be reached from here"
        ) from error
    why = "is that Ray's client server? Its port is 10001 if `ray start --head` was told nothing else"
    if not address.startswith("ray://"):
        _check_head(where)
        why = "this machine's own node may hang: see logs/raylet.err in Ray's session folder"
    try:
        with _quiet():
            within(limit_s, lambda: _init(address), f"{address}: no answer; {why}")
    except Exception as error:
        raise _explained(address, error) from error
    return address


def within(seconds: float, call: Callable[[], T], otherwise: str) -> T:
    """What `call` returns or raises within so many seconds. UserError with `otherwise` if it takes longer."""
    outcome: list[T] = []
    fault: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            fault.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if fault:
        raise fault[0]
    if not outcome:
        raise UserError(f"{otherwise} (waited {seconds:g} s)")
    return outcome[0]


def _gcs_address(address: str) -> str:
    """host:port of a cluster's head, where `auto` is the one on this machine."""
    from ray._private import services

    if address != "auto":
        return address
    try:
        return str(services.canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, ValueError) as error:
        raise UserError(
            "no Ray cluster runs on this machine, and no address was given: start one (`ray start --head`), name its "
            f"address or set RAY_ADDRESS, or from outside run the doctor as a job: {AS_A_JOB}"
        ) from error


def _host_and_port(where: str) -> tuple[str, int]:
    host, colon, port = where.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"{where}: expected HOST:PORT (6379 if `ray start --head` was told nothing else)")
    return host.strip("[]"), int(port)


def _check_token() -> None:
    """Raises UserError where this process is told to give a token and has none, in which Ray's C++ part crashes."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if wanted and not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        raise UserError(f"RAY_AUTH_MODE is token, and this process has no token; {_REMEDY}")


def _check_head(where: str) -> None:
    """Raises UserError unless the head of a cluster answers at `where` and this machine is one of its nodes."""
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    wrong = f"{where}: something listens there, but does not answer as a cluster's head (8265 is the dashboard's port)"
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and _takes_anyone(where):
        raise UserError(
            f"{where}: the cluster runs without tokens, but RAY_AUTH_MODE is token here, so that its nodes could not "
            "answer this process; export RAY_AUTH_MODE=disabled"
        )
    try:
        with _quiet():
            nodes = within(_ANSWER_S, lambda: GcsClient(address=where).get_all_node_info(timeout=_ANSWER_S), wrong)
    except Exception as error:
        raise _explained(where, error) from error
    if not {node.hex() for node in nodes} & set(services.find_node_ids()):
        raise UserError(
            f"{where}: the cluster answers, but this machine is not one of its nodes; run the doctor on a node, as a "
            f"job ({AS_A_JOB}), or through Ray's client: ray://HEAD:10001"
        )


def _takes_anyone(where: str) -> bool:
    """Whether the head at `where` answers one who gives no token. In a process of its own: the mode is read once."""
    script = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
    try:
        return not subprocess.run(
            [sys.executable, "-c", script, where],
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            timeout=2 * _ANSWER_S,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:  # what follows will say that nobody answers
        return False


def _explained(address: str, error: Exception) -> Exception:
    """The error that is worth showing instead of Ray's."""
    from ray.exceptions import AuthenticationError

    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return error
    if isinstance(error, AuthenticationError) or "Unauthenticated" in text or "401" in text:
        mode = os.environ.get("RAY_AUTH_MODE", "")
        gives = "the one that this process has is another"
        if mode.lower() != "token":
            gives = f"this process gives none, since RAY_AUTH_MODE is {mode or 'not set'}"
        return UserError(f"{address}: the cluster asks for a token (HTTP 401), and {gives}; {_REMEDY}")
    if "ersion mismatch" in text:
        return VersionMismatchError(text[text.index("ersion mismatch") - 1 :])
    return UserError(f"{address}: could not join the cluster: {text[:300] or type(error).__name__}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what Ray's C++ part writes to stderr away from people: what fails here is said in one line instead."""
    kept = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    except Exception:
        sys.stderr = os.fdopen(kept, "w")  # ours goes on, while a thread that still tries stays unheard
        raise
    os.dup2(kept, 2)
    os.close(kept)


def _init(address: str) -> None:
    import ray

    ray.init(address=address, runtime_env=_code(), log_to_driver=False, logging_level=logging.CRITICAL)


def _code() -> dict[str, Any]:
    """Takes this package to nodes that have no checkout; a job's working directory does that already."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    if job.get("working_dir") or job.get("py_modules"):
        return {}
    return {"py_modules": [str(Path(__file__).parent)], "excludes": ["__pycache__"]}
