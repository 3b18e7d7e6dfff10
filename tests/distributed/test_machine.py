"""The hypergradient under DeepSpeed is that of one plain process: any number of workers, any ZeRO stage, every way."""

import pytest
import torch

from models.errors import UserError
from tests.support.learned import hypergradient_alone, hypergradients_on_engine, trajectory
from tests.support.workers import WorkerError, on_workers

STAGES = (0, 1, 2, 3)
WAYS = ("per_task", "finite_difference", "one_sided_difference", "forward_mode")


def error(found: list[float], expected: list[float]) -> float:
    a, b = torch.tensor(found), torch.tensor(expected)
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def reference() -> list[float]:
    """By differentiating the backbone twice."""
    return hypergradient_alone("aid_fp_lite", "double_backward")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_way_at_every_stage(reference: list[float], workers: int) -> None:
    pairs = {stage: [w for w in WAYS if stage < 3 or w != "forward_mode"] for stage in STAGES}
    for stage in STAGES:
        by_worker = on_workers(workers, hypergradients_on_engine, [stage], [("aid_fp_lite", w) for w in pairs[stage]])
        for found in by_worker:
            assert found == by_worker[0]  # the same bits on every worker
            for way, numbers in zip(pairs[stage], found, strict=True):
                assert error(numbers, reference) < (2e-3 if "difference" in way else 1e-4), (stage, way)


def test_micro_batches_give_the_same_hypergradient(reference: list[float]) -> None:
    pairs = [("aid_fp_lite", "per_task"), ("aid_fp", "per_task")]
    series = hypergradient_alone("aid_fp", "per_task")
    for found in on_workers(2, hypergradients_on_engine, STAGES, pairs, "fp32", 2):
        for number, numbers in enumerate(found):
            assert error(numbers, series if number % 2 else reference) < (2e-3 if number % 2 else 1e-4), number


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_step_along_a_known_gradient(stage: int) -> None:
    plain, along = (on_workers(2, trajectory, stage, False, 4, known)[0] for known in (False, True))
    for before, after in zip(plain, along, strict=True):
        assert after == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("scheme", ["itd", "aid_cg", "aid_fp", "stocbio"])
def test_other_schemes(scheme: str) -> None:
    expected = hypergradient_alone(scheme, "per_task")
    for found in on_workers(2, hypergradients_on_engine, STAGES, [(scheme, "per_task")]):
        for stage, numbers in zip(STAGES, found, strict=True):
            assert error(numbers, expected) < 2e-3, stage


@pytest.mark.parametrize("stage", STAGES)
def test_looking_changes_nothing(stage: int) -> None:
    plain, looked_at = (on_workers(2, trajectory, stage, looks)[0] for looks in (False, True))
    for before, after in zip(plain, looked_at, strict=True):
        assert after == pytest.approx(before, rel=1e-6)
    assert sum(plain[-1]) < sum(plain[0])


def test_bf16_points_the_same_way_and_refuses_differences(reference: list[float]) -> None:
    for way in ("per_task", "forward_mode"):
        ((found,),) = on_workers(1, hypergradients_on_engine, [1], [("aid_fp_lite", way)], "bf16")
        cosine = torch.nn.functional.cosine_similarity(torch.tensor(found), torch.tensor(reference), dim=0)
        assert cosine > 0.99, way
    for scheme, way in (("aid_fp_lite", "finite_difference"), ("aid_cg", "per_task")):
        with pytest.raises(WorkerError, match=f"{UserError.__name__}.*float32 forward"):
            on_workers(1, hypergradients_on_engine, [1], [(scheme, way)], "bf16")


def test_forward_mode_at_stage_3_says_what_to_do() -> None:
    with pytest.raises(WorkerError, match=r"combiner\.way=per_task"):
        on_workers(1, hypergradients_on_engine, [3], [("aid_fp_lite", "forward_mode")])
