"""The batches of a run and of its meta steps: functions of the step, shared out without loss."""

import pytest
import torch

from distributed.batches import Batches
from distributed.tasks import load_task
from models.collectives import Alone
from models.errors import UserError
from models.meltr.config import MELTRConfig
from models.tasks.task import Task
from tests.support.learned_runs import digits_recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return load_task(digits_recipe(tmp_path_factory.mktemp("digits")))


def batches(task: Task, rank: int = 0, workers: int = 1, size: int = 24) -> Batches:
    return Batches(task, task.names, 7, size, (rank, workers), Alone(), CPU)


def test_an_epoch_sees_every_sample_once(task: Task) -> None:
    made = batches(task)
    rows = [row for step in range(made.plan.in_epoch) for row in made.plan.rows(step)]
    assert sorted(rows) == list(range(len(task)))
    assert made.plan.rows(made.plan.in_epoch) != made.plan.rows(0)  # another order in the next epoch


def test_shares_of_micro_batches_add_up(task: Task) -> None:
    torch.manual_seed(0)
    network = task.network().eval()
    whole = batches(task).at(3)
    parts = [batches(task, rank, 2).at(3, parts=2) for rank in range(2)]
    counts = sum(part.weights for part in parts)  # alone, each counts its own share
    assert torch.equal(torch.as_tensor(counts), whole.weights)
    total = torch.stack([part(network) * part.weights for part in parts]).sum(0) / whole.weights
    torch.testing.assert_close(total, whole(network), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole(network), whole(network), rtol=0, atol=0)


def test_held_out_samples_are_never_trained_on(task: Task) -> None:
    made = batches(task)
    made.hold_out(0.2)
    trained = {row for step in range(made.plan.in_epoch) for row in made.plan.rows(step)}
    assert len(made.held_out) == round(0.2 * len(task))
    assert trained.isdisjoint(made.held_out)
    assert len(trained) + len(made.held_out) == len(task)
    with pytest.raises(UserError, match=r"held_out_fraction=0\.0001: leaves 0 of"):
        made.hold_out(0.0001)


def test_replay_looks_back_and_only_so_far(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = batches(task), []
    monkeypatch.setattr(Batches, "at", lambda self, step, parts=1: seen.append(step))
    config = MELTRConfig.model_validate({"meta_data": "replay", "replay_batches": 4})
    for step in range(1, 60):
        made.meta(config, step)()
        assert max(0, step - 4) <= seen[-1] < step
    assert {step - at for step, at in enumerate(seen, start=1)} == {1, 2, 3, 4}
