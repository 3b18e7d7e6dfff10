"""The job server that is not there, wants a token, or is none: one line each. And the exit codes of jobs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from cluster.command import UserError
from cluster.job_client import address_of, connect
from cluster.job_follow import exit_code
from tests.support.heads import free_port


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # `connect` sets it


@contextmanager
def server(status: int, text: str) -> Iterator[str]:
    """A server that answers everything alike, at this address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def refusal(address: str) -> str:
    with pytest.raises(UserError) as caught:
        connect(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["http://", "", "ray://"])
def test_nobody_there(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    assert refusal(address).startswith(f"no answer from {address}; start a cluster (python -m cluster.local start)")


def test_no_address_at_all() -> None:
    assert refusal("nonsense").startswith("no answer from nonsense; ")


def test_a_server_that_wants_a_token() -> None:
    with server(401, "Unauthorized: Missing authentication token") as address:
        assert "asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in refusal(address)
    with server(403, "Forbidden: Invalid authentication token") as address:
        assert "refuses this token" in refusal(address)


@pytest.mark.parametrize(("status", "text"), [(404, ""), (502, "Bad gateway"), (200, "<html>"), (200, "{}")])
def test_a_server_of_something_else(status: int, text: str) -> None:
    with server(status, text) as address:
        assert "is no job server of Ray: " in refusal(address)


def test_which_address_counts() -> None:
    variables = {"RAY_ADDRESS": "http://c:8265", "RAY_API_SERVER_ADDRESS": "http://b:8265"}
    assert address_of("http://a:8265/", variables) == "http://a:8265"
    assert address_of(None, variables) == "http://b:8265"
    assert address_of(None, {"RAY_ADDRESS": "http://c:8265"}) == "http://c:8265"
    assert address_of(None, {}) == "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    ("status", "of_driver", "ours"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, -9, 137),  # out of memory
        (JobStatus.FAILED, None, 1),  # it never ran, or its node is gone
        (JobStatus.STOPPED, None, 143),
    ],
)
def test_exit_codes(status: JobStatus, of_driver: int | None, ours: int) -> None:
    job = JobDetails(type=JobType.SUBMISSION, status=status, entrypoint="true", driver_exit_code=of_driver)
    assert exit_code(job) == ours
