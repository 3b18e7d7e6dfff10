"""Batches read ahead, in a thread or through Ray Data, are those that would be read without."""

from collections.abc import Sequence

import numpy as np
import pytest

from distributed.ingest import Arrays, Ingest
from models.errors import UserError


def read(numbers: Sequence[int], draw: int) -> Arrays:
    if draw == 13 * 30:
        raise UserError("videoX: cannot be read")
    rows = np.array(numbers, np.int64)
    return {"rows": rows, "frames": (rows[:, None, None] * 7 + draw + np.arange(600).reshape(20, 30)).astype(np.uint8)}


def plan(step: int) -> tuple[list[int], int]:
    return list(range(step, step + step % 4)), 13 * step  # sometimes no samples at all


def same(found: Arrays, step: int) -> None:
    expected = read(*plan(step))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("readers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_steps_come_in_their_order_and_others_are_read_when_asked_for(cluster: None, readers: int) -> None:
    ingest = Ingest(read, plan, 3, 25, readers)
    for step in range(3, 25):
        same(ingest.at(step), step)
        if step % 5 == 0:
            same(ingest.at(step - 2), step - 2)  # a learned loss looks at an earlier batch
    same(ingest.at(40), 40)
    ingest.close()
    same(ingest.at(25), 25)  # also after its end


def test_nothing_is_read_for_a_run_that_is_over() -> None:
    ingest = Ingest(read, plan, 30, 30, 0)
    ingest.close()


@pytest.mark.parametrize("readers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_mistake_comes_at_its_step(cluster: None, readers: int) -> None:
    ingest = Ingest(read, plan, 28, 40, readers)
    same(ingest.at(28), 28)
    same(ingest.at(29), 29)
    with pytest.raises(UserError, match="videoX"):
        ingest.at(30)
    ingest.close()
