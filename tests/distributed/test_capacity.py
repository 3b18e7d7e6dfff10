"""Whether a cluster can ever hold a run: told at once, and node by node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distributed.capacity import Capacity
from models.errors import UserError
from tests.support.small_runs import small_recipe
from tuning.runner import concurrent_trials

CPUS = [{"CPU": 4.0}, {"CPU": 4.0}]
GPUS = [{"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 1.0}]


def recipe(workers: int, **scaling: Any) -> Any:
    changes = {f"scaling.{key}": value for key, value in scaling.items()}
    return small_recipe(Path("data"), Path("runs"), {"scaling.workers": workers, "training.batch_size": 64, **changes})


@pytest.mark.parametrize(
    ("nodes", "scaling", "fitting"),
    [
        (CPUS, {"workers": 1}, 8),
        (CPUS, {"workers": 1, "cpus_per_worker": 3}, 2),  # four CPUs are left, but on two nodes
        (CPUS, {"workers": 1, "cpus_per_worker": 0.5}, 16),
        (GPUS, {"workers": 1}, 3),
        (GPUS, {"workers": 3}, 3),
        (GPUS, {"workers": 4}, 36),  # there is no GPU for each of them, so none has one
        (GPUS, {"workers": 1, "gpus_per_worker": 0.25}, 12),
        (GPUS, {"workers": 1, "gpus_per_worker": 0.1}, 26),  # 20 on the first, but it has 16 CPUs
    ],
)
def test_workers_that_fit(nodes: Sequence[dict[str, float]], scaling: dict[str, Any], fitting: int) -> None:
    capacity = Capacity(nodes)
    assert capacity.holds(capacity.worker(recipe(**scaling))) == fitting


@pytest.mark.parametrize(
    ("nodes", "scaling", "message"),
    [
        (CPUS, {"workers": 9}, r"asks for 9 CPUs \(9 workers\), but this cluster has 8; lower scaling\.workers or"),
        (GPUS, {"workers": 4, "gpus_per_worker": 1}, r"asks for 4 GPUs \(4 workers\), but this cluster has 3"),
        (CPUS, {"workers": 2, "cpus_per_worker": 3}, None),
        (CPUS, {"workers": 9, "min_workers": 8}, None),  # an elastic run begins with what there is
        (CPUS, {"workers": 16, "min_workers": 9}, r"asks for 9 CPUs .*lower scaling\.min_workers or"),
        (CPUS, {"workers": 1, "cpus_per_worker": 5}, r"workers=1 with 5 CPUs each: the 2 nodes of this cluster hold 0"),
        (CPUS, {"workers": 4, "readers_per_worker": 1}, None),
        (
            CPUS,
            {"workers": 4, "readers_per_worker": 2},
            r"readers_per_worker=2 takes 8 CPUs beside those of",
        ),
        (GPUS, {"workers": 2, "gpus_per_worker": 1.5}, r"with 1 CPUs and 1\.5 GPUs each: the 3 nodes .* hold 1 such"),
    ],
)
def test_capacity(nodes: Sequence[dict[str, float]], scaling: dict[str, Any], message: str | None) -> None:
    if message is None:
        Capacity(nodes).check(recipe(**scaling))
    else:
        with pytest.raises(UserError, match=message):
            Capacity(nodes).check(recipe(**scaling))


def test_a_cluster_that_grows_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    head = Capacity([{"CPU": 0.0}], grows=True)
    head.check(recipe(workers=8, gpus_per_worker=1))
    assert "0 of 8 workers have room; waiting for nodes with 1 CPUs and 1 GPUs each" in capsys.readouterr().out
    assert head.worker(recipe(workers=8, gpus_per_worker=0)) == {"CPU": 1.0}


def test_what_its_nodes_will_have_must_be_said() -> None:
    with pytest.raises(UserError, match=r"scaling\.gpus_per_worker: .* set it to 1, or to 0 for nodes without"):
        Capacity([{"CPU": 4.0}], grows=True).check(recipe(workers=1))
    assert Capacity(GPUS, grows=True).worker(recipe(workers=3))["GPU"] == 1


def test_trials_on_a_cluster_that_grows() -> None:
    assert concurrent_trials(Capacity(CPUS), recipe(workers=2), None) == 4
    assert concurrent_trials(Capacity(CPUS), recipe(workers=2), 3) == 3
    growing = Capacity([{"CPU": 0.0}], grows=True)
    assert concurrent_trials(growing, recipe(workers=2), 3) == 3
    with pytest.raises(UserError, match=r"budget\.concurrent"):
        concurrent_trials(growing, recipe(workers=2), None)
