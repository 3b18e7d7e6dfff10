"""Runs a function on several worker processes of one process group, without Ray."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# A fork of a server that has imported everything starts at once, where a fresh process imports for seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preload"])


class WorkerError(Exception):
    """A worker raised; the message is its traceback."""


def on_workers(workers: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` on `workers` processes of one gloo group -> what each returned, by rank.

    `function` is one that a fresh process can import by name. Raises WorkerError when any worker raised or died.
    """
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_context.Pipe(duplex=False) for _ in range(workers)]
        processes = [
            _context.Process(
                target=_work, args=(rank, workers, Path(folder) / "meeting", pipes[rank][1], function, arguments)
            )
            for rank in range(workers)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
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
    rank: int, workers: int, meeting: Path, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        # DeepSpeed asks the environment who is who, even when the process group is there already.
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
        outcome = ("", function(*arguments))
        dist.destroy_process_group()
    except BaseException:
        outcome = (traceback.format_exc(), None)
    sender.send(outcome)
    sender.close()
