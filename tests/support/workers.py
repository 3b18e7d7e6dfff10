"""Runs functions on worker processes of one process group, and commands in processes, without Ray.

The processes are forks of a server that has imported everything: a fresh process would import for seconds.
"""

import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preload"])


class WorkerError(Exception):
    """At least one worker raised or died; the message has their tracebacks."""


class Outcome(NamedTuple):
    """How a command ended."""

    code: int | None
    out: str
    err: str
    launched: bool
    """Whether it got as far as starting or joining a Ray cluster."""


def on_workers(workers: int, function: Callable[..., T], *arguments: Any) -> list[T]:
    """`function(*arguments)` on `workers` processes of one gloo group -> what each returned, by rank.

    `function` is one that another process can import by name; what it returns must hold no tensors.
    Raises WorkerError when any worker raised or died.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        pipes = [_context.Pipe(duplex=False) for _ in range(workers)]
        processes = []
        for rank, (_, sender) in enumerate(pipes):
            process = _context.Process(target=_work, args=(rank, workers, meeting, sender, function, arguments))
            process.start()
            sender.close()
            processes.append(process)
        outcomes = []
        for receiver, _ in pipes:
            try:
                outcomes.append(receiver.recv())
            except EOFError:
                outcomes.append(("died without a word", None))
        for process in processes:
            process.join()
    problems = [f"worker {rank} of {workers}: {problem}" for rank, (problem, _) in enumerate(outcomes) if problem]
    if problems:
        raise WorkerError("\n".join(problems))
    return [result for _, result in outcomes]


def _work(
    rank: int, workers: int, meeting: Path, sender: Connection, function: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # DeepSpeed calls collectives by names that torch has replaced
    try:
        # DeepSpeed asks the environment who is who, even when the process group is there already.
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
        limit = timedelta(minutes=5)  # only so that the others end when one worker is dead
        dist.init_process_group("gloo", f"file://{meeting}", limit, rank=rank, world_size=workers)
        outcome = ("", function(*arguments))
        dist.destroy_process_group()
    except BaseException:
        outcome = (traceback.format_exc(), None)
    sender.send(outcome)
    sender.close()


def run_command(command: Callable[[Sequence[str]], None], *arguments: object) -> Outcome:
    """Runs one of the project's commands as `python -m` would, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out, err, launched = (Path(folder) / name for name in ("out", "err", "launched"))
        process = _context.Process(
            target=_command, args=(command, [str(argument) for argument in arguments], out, err, launched)
        )
        process.start()
        process.join()
        return Outcome(process.exitcode, out.read_text(), err.read_text(), launched.exists())


def refusal(command: Callable[[Sequence[str]], None], *arguments: object) -> str:
    """The one line that a command leaves which refuses a user's mistake before anything is launched."""
    outcome = run_command(command, *arguments)
    assert (outcome.code, outcome.out, outcome.launched) == (2, "", False), outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err.removeprefix("error: ").rstrip("\n")


def _command(
    command: Callable[[Sequence[str]], None], arguments: list[str], out: Path, err: Path, launch: Path
) -> None:
    from distributed.command import main_of

    for path, descriptor in ((out, 1), (err, 2)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout, sys.stderr = (open(descriptor, "w", closefd=False) for descriptor in (1, 2))  # noqa: SIM115
    sys.argv = ["command", *arguments]
    os.environ.pop("MELTMATCH_DATA", None)  # these commands see generated data alone
    try:
        main_of(command)
    finally:
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            launch.touch()
