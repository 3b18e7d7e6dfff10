"""Who keeps the others waiting: a worker that is frozen, busy elsewhere, or cut off is named."""

import os
import signal
import subprocess
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from distributed.liveness import BEAT_S, Liveness, in_collective
from tests.support.workers import on_workers

FROZEN_S = 18


def freeze() -> None:
    """Stops this process, and has it go on after a while."""
    waker = f"sleep {FROZEN_S}; kill -CONT {os.getpid()}"
    with subprocess.Popen(["sh", "-c", waker]):
        os.kill(os.getpid(), signal.SIGSTOP)


def asked_while(rank: int, frozen: bool) -> tuple[str, list[str]]:
    """What another worker says of `rank` while that is frozen, or busy outside of all collectives."""
    said: list[str] = []
    liveness = Liveness("here", quiet_s=600, say=said.append)
    liveness.step = 7
    time.sleep(3 * BEAT_S)  # everybody has said so
    dist.barrier()
    asking = 1 if rank == 0 else 0
    late = ""
    if dist.get_rank() == rank:
        freeze() if frozen else time.sleep(FROZEN_S)
    elif dist.get_rank() == asking:
        time.sleep(BEAT_S)
        late = liveness.late()
    dist.barrier()
    liveness.close()
    return late, said


@pytest.mark.slow
def test_a_frozen_worker_is_named() -> None:
    late, _ = on_workers(3, asked_while, 1, True)[0]
    assert late.startswith("rank 1 (node here, process ")
    assert late.endswith("has not been heard of since step 7")


@pytest.mark.slow
def test_one_that_is_busy_elsewhere_is_named_with_its_place() -> None:
    late, _ = on_workers(3, asked_while, 1, False)[0]
    assert late.startswith("rank 1 (node here, process ")
    assert "is at tests/distributed/test_liveness.py:" in late
    assert late.endswith("asked_while in step 7")


@pytest.mark.slow
def test_rank_0_is_named_although_it_keeps_the_store() -> None:
    late, _ = on_workers(2, asked_while, 0, True)[1]
    assert late.startswith("rank 0 (node here, process ")


def told_while_waiting() -> list[str]:
    said: list[str] = []
    liveness = Liveness("here", quiet_s=2, say=said.append)
    dist.barrier()
    if dist.get_rank() == 1:
        time.sleep(FROZEN_S)
    dist.barrier()
    liveness.close()
    return said


@pytest.mark.slow
def test_a_long_wait_is_told_while_it_lasts() -> None:
    first, second = on_workers(2, told_while_waiting)
    assert len(first) == 1
    assert first[0].startswith("no progress for 2 s: rank 1 (node here")
    assert second == []


def stuck_collective() -> str:
    group = dist.new_group(timeout=timedelta(seconds=2))
    answer = ""
    if dist.get_rank() == 0:
        try:
            dist.all_reduce(torch.ones(1), group=group)
        except RuntimeError as error:
            answer = f"{in_collective(error)}"
    else:
        time.sleep(6)
    return answer


def test_a_timeout_is_known_for_one() -> None:
    assert on_workers(2, stuck_collective)[0] == "True"


def test_another_error_is_not_taken_for_one() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.ones(2) @ torch.ones(3)
    assert not in_collective(error.value)
