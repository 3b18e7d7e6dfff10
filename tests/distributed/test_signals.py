"""What may be asked of a run, and that only one group of workers writes into its folder."""

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distributed import alone
from distributed.alone import ALIVE, Board, SignOfLife, check_alone
from distributed.signals import LOOK_S, SAVE, STOP, Asked, Signals
from models.errors import UserError
from tests.support.beats import trained_elsewhere
from tests.support.workers import on_workers


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life ten times as fast."""
    monkeypatch.setattr(Board, "beat_s", Board.beat_s / 10)
    monkeypatch.setattr(alone, "PATIENCE_S", alone.PATIENCE_S / 10)


def test_a_fresh_folder_is_free(tmp_path: Path) -> None:
    check_alone(Board(tmp_path / "not there yet"), "here")


@pytest.mark.usefixtures("quick")
def test_a_dead_group_is_waited_for_and_forgotten(tmp_path: Path) -> None:
    SignOfLife(Board(tmp_path)).beat()
    check_alone(Board(tmp_path), "RUN")


@pytest.mark.usefixtures("quick")
def test_a_run_that_goes_on_is_not_begun_again(tmp_path: Path) -> None:
    life = SignOfLife(Board(tmp_path))
    with (
        trained_elsewhere(life),
        pytest.raises(UserError, match=r"^RUN: is being trained already, by process \d+ on .*named stop"),
    ):
        check_alone(Board(tmp_path), "RUN")
    life.end()
    assert not (tmp_path / ALIVE).exists()


def test_who_was_replaced_learns_of_it(tmp_path: Path) -> None:
    first, second = SignOfLife(Board(tmp_path)), SignOfLife(Board(tmp_path))
    assert first.beat()
    assert second.beat()  # takes over
    assert second.beat()
    assert not first.beat()
    first.end()  # leaves the other's line alone
    assert second.beat()


def test_a_lost_folder_ends_nothing(tmp_path: Path) -> None:
    life = SignOfLife(Board(tmp_path / "unmounted"))
    assert life.beat()
    assert life.beat()


def hear(run: Path) -> list[list[str]]:
    """What the workers hear, one situation after another."""
    warnings: list[str] = []
    said: list[str] = []
    signals = Signals(run, None, torch.device("cpu"), lambda: list(warnings), said.append)
    heard: list[str] = []
    main = dist.get_rank() == 0

    def ask() -> None:
        dist.barrier()
        heard.append(signals.asked().name)

    ask()
    if main:
        (run / SAVE).touch()
    ask()
    signals.saved(Asked.SAVE)
    ask()
    if main:
        warnings.append("node 1 will be taken away")
        time.sleep(2.5 * LOOK_S)
    ask()
    signals.saved(Asked.SAVE)
    ask()  # one checkpoint a warning
    if main:
        (run / STOP).touch()
    ask()
    if main:
        SignOfLife(Board(run)).beat()
        time.sleep(2.5 * LOOK_S)
    ask()
    signals.close()
    return [heard, said]


def test_all_workers_hear_the_same(tmp_path: Path) -> None:
    first, second = on_workers(2, hear, tmp_path)
    expected = [Asked.NOTHING, Asked.SAVE, Asked.NOTHING, Asked.SAVE, Asked.NOTHING, Asked.STOP, Asked.GIVE_WAY]
    assert first[0] == second[0] == [asked.name for asked in expected]
    assert first[1] == ["warning: node 1 will be taken away: saving a checkpoint first"]
    assert second[1] == []
