"""Follows a job to its end: its logs on standard output, what happens to it on standard error, its exit code.

A dropped connection is opened again. The server then sends the log from its beginning: what has been shown is skipped.
"""

import asyncio
import sys
import time

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus

from cluster.command import UserError
from cluster.job_client import Answerless, JobClient, one_line, unauthorised

STOPPED = 143
"""The exit code for a job that somebody has stopped: that of a process which SIGTERM ended."""
POLL_S, PROGRESS_S, HEARTBEAT_S = 1.0, 30.0, 20.0
LOST_S, LOG_S = 300.0, 20.0
"""How long the server may be away, and the log of a job that has ended."""
_GONE = "status code 404"


class LostError(Exception):
    """The server has not answered for so long that it is no use to wait on, or it knows the job no more."""


class Follower:
    """One job, followed by one process."""

    def __init__(self, client: JobClient, job: str) -> None:
        self.client, self.job = client, job
        self.shown = 0
        """How many characters of the log have been printed."""
        self.seen = time.monotonic()
        """When the server last answered."""

    def follow(self) -> int:
        """The job's exit code, once it has ended.

        Raises:
            LostError: the server went away and did not come back, or has forgotten the job.
            UserError: it asks for a token now.
        """
        info = self._started()
        complete, ended = False, None
        while not (complete and info.status.is_terminal()):
            complete = asyncio.run(self._tail())
            info = self._info()
            if info.status.is_terminal() and not complete:
                ended = ended or time.monotonic()
                if time.monotonic() - ended > LOG_S:
                    say("the rest of the log cannot be had: the node that has it does not answer")
                    break
            if not (complete and info.status.is_terminal()):
                time.sleep(POLL_S)
        say(f"job {self.job}: {told(info)}")
        return exit_code(info)

    def _started(self) -> JobDetails:
        """Waits until the job runs or is over."""
        began = shown = time.monotonic()
        before = None
        while True:
            info = self._info()
            message = " ".join((info.message or "").split())
            if info.status != JobStatus.PENDING:
                if info.status == JobStatus.RUNNING:
                    say(f"job {self.job}: RUNNING")
                return info
            if message != before:
                say(f"job {self.job}: PENDING: {message}")
                before, shown = message, time.monotonic()
            elif time.monotonic() - shown > PROGRESS_S:
                say(f"job {self.job}: still PENDING after {time.monotonic() - began:.0f} s: {message}")
                shown = time.monotonic()
            time.sleep(POLL_S)

    def _info(self) -> JobDetails:
        """What the server knows of the job; asks until it answers."""
        while True:
            try:
                info = self.client.get_job_info(self.job)
            except AuthenticationError as error:
                raise UserError(unauthorised(self.client.get_address(), error)) from error
            except Answerless as error:
                if _GONE in str(error):
                    raise LostError(
                        "the cluster does not know the job any more: its head has been started anew"
                    ) from error
                self._away(error)
                time.sleep(POLL_S)
            else:
                self.seen = time.monotonic()
                return info

    def _away(self, error: BaseException) -> None:
        waited = time.monotonic() - self.seen
        if waited > LOST_S:
            raise LostError(f"no answer from {self.client.get_address()} for {waited:.0f} s: {one_line(error)}")

    async def _tail(self) -> bool:
        """Prints the log as it grows -> whether it came to its end; False after a dropped connection."""
        client, skip = self.client, self.shown
        url = f"{client.get_address()}/api/jobs/{self.job}/logs/tail"
        try:
            async with (
                aiohttp.ClientSession(cookies=client._cookies, headers=client._headers) as session,
                # Without a heartbeat, a connection that a router has forgotten would look like a silent job.
                session.ws_connect(url, heartbeat=HEARTBEAT_S, ssl=client._ssl_context or True) as socket,
            ):
                async for message in socket:
                    if message.type != aiohttp.WSMsgType.TEXT:
                        break
                    self.seen = time.monotonic()
                    new = message.data[skip:]
                    skip -= len(message.data) - len(new)
                    print(new, end="", flush=True)
                    self.shown += len(new)
                return socket.close_code == aiohttp.WSCloseCode.OK
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


def told(info: JobDetails) -> str:
    """A job's status and why. What follows the first line of Ray's message is the log's end."""
    lines = (info.message or "").strip().splitlines()
    code = f" (exit code {info.driver_exit_code})" if info.driver_exit_code else ""
    if info.status == JobStatus.FAILED and info.driver_exit_code is None and lines:
        return f"{info.status}: {lines[0]}"
    return f"{info.status}{code}"


def exit_code(info: JobDetails) -> int:
    """What a shell would show, had the job been run here: 128 + n after signal n, 143 for one that was stopped, 1 where
    it failed before its command ran or together with its node."""
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        return STOPPED
    code = info.driver_exit_code or 1
    return code if code > 0 else 128 - code


def say(line: str) -> None:
    """Tells the user, apart from the job's own output."""
    print(line, file=sys.stderr, flush=True)
