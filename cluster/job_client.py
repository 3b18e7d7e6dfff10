"""Ray's job server: reached quickly or not at all, with every failure as one line; which jobs are there; submission."""

import json
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import ray
import requests
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.command import UserError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_CONNECT_S, _ANSWER_S = 5.0, 120.0
Answerless = (requests.RequestException, ConnectionError, RuntimeError, TimeoutError)
"""What Ray's client raises when the server cannot be reached, or answers with an error."""


class JobClient(JobSubmissionClient):
    """Ray's client, which by itself would wait for an answer for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", (_CONNECT_S, _ANSWER_S))
        return super()._do_request(method, endpoint, **options)

    @property
    def ray_of_cluster(self) -> str:
        return str(self._server_ray_version)


@dataclass(frozen=True)
class Job:
    """What is submitted, but for the package."""

    entrypoint: str
    runtime_env: Mapping[str, Any]
    metadata: Mapping[str, str]
    submission_id: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    """What Ray reserves for the driver, by the names of `submit_job`'s arguments."""


def address_of(option: str | None, environ: Mapping[str, str]) -> str:
    """Where the job server is: as the command line says, else as `ray job submit` finds it, else on this machine."""
    named = option or environ.get("RAY_API_SERVER_ADDRESS") or environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    return named.rstrip("/")


def connect(address: str) -> JobClient:
    """The client of the job server at `address`, which has answered.

    Raises:
        UserError: nobody answers there, or not without a token, or not as a job server of Ray.
    """
    silent = UserError(
        f"no answer from {address}; start a cluster (python -m cluster.local start), or open a tunnel to its dashboard "
        "and name it: --address http://HOST:8265"
    )
    if not address.startswith(("http://", "https://")) and address != "auto":
        if not _is_open(address):  # Ray would try for 40 s
            raise silent
        address = f"http://{address}" if _is_dashboard(address) else address
    # Ray's client prefers this variable to its argument; and it reports each step of an upload.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        headers = json.loads(os.environ.get("RAY_JOB_HEADERS", "{}"))
    except ValueError as error:
        raise UserError(f"RAY_JOB_HEADERS: expected a JSON object, as `ray job submit` does: {error}") from error
    try:
        return JobClient(address, headers=headers)
    except AuthenticationError as error:
        raise UserError(unauthorised(address, error)) from error
    except (requests.ConnectionError, requests.Timeout, ConnectionError) as error:
        raise silent from error
    except (*Answerless, RayError, ValueError, KeyError) as error:
        raise UserError(
            f"{address} is no job server of Ray: {one_line(error)}; --address is its dashboard's: {DEFAULT_ADDRESS}"
        ) from error


def _is_open(address: str) -> bool:
    """Whether anybody listens at HOST:PORT or ray://HOST:PORT."""
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        socket.create_connection((place.hostname or "", place.port or 0), timeout=_CONNECT_S).close()
    except (OSError, ValueError):
        return False
    return True


def _is_dashboard(address: str) -> bool:
    """Whether HOST:PORT is a dashboard's, not that of a cluster's own protocol."""
    try:
        requests.get(f"http://{address}/api/version", timeout=_CONNECT_S)
    except requests.RequestException:
        return False
    return True


def unauthorised(address: str, error: AuthenticationError) -> str:
    """The line for a server that wants a token, or another one."""
    if error.message.startswith("Authentication failed"):  # HTTP 403
        return f"{address} refuses this token: RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) must be the cluster's"
    return f"{address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on it"


def one_line(error: BaseException) -> str:
    """The gist of an error of Ray's client, which may hold the server's whole traceback: its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return (lines[-1] if lines else type(error).__name__)[:300]


def unfinished_twin(client: JobClient, entrypoint: str, run: str | None) -> JobDetails | None:
    """A job that waits or runs with the same command, or on the same run's folder.

    Raises:
        UserError: the server cannot say.
    """
    try:
        jobs = client.list_jobs()
    except AuthenticationError as error:
        raise UserError(unauthorised(client.get_address(), error)) from error
    except Answerless as error:
        raise UserError(f"{client.get_address()}: cannot list its jobs: {one_line(error)}") from error
    for job in jobs:
        if job.submission_id is None or job.status not in (JobStatus.PENDING, JobStatus.RUNNING):
            continue
        if job.entrypoint == entrypoint or (run is not None and (job.metadata or {}).get("run") == run):
            return job
    return None


def submit(client: JobClient, job: Job, package: str) -> str:
    """Uploads the package, unless the cluster has it, and submits the job -> its id.

    Raises:
        UserError: the server does not take it.
    """
    try:
        return str(
            client.submit_job(
                entrypoint=job.entrypoint,
                runtime_env={**job.runtime_env, "working_dir": package},
                metadata=dict(job.metadata),
                submission_id=job.submission_id,
                **job.resources,
            )
        )
    except AuthenticationError as error:
        raise UserError(unauthorised(client.get_address(), error)) from error
    except (*Answerless, ValueError, TypeError) as error:
        raise UserError(f"{client.get_address()} does not take the job: {one_line(error)}") from error


def differing_ray(client: JobClient) -> str | None:
    """A warning where the cluster runs another Ray than the one that is here."""
    if client.ray_of_cluster == ray.__version__:
        return None
    return f"the cluster runs Ray {client.ray_of_cluster}, here is {ray.__version__}: the job runs with the cluster's"
