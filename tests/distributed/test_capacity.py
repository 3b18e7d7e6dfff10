"""Whether a cluster can ever hold a run: told at once, and node by node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distributed.train import check_capacity, resources_of_worker, workers_that_fit
from models.errors import UserError
from tests.support.small_runs import small_recipe

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
    assert workers_that_fit(resources_of_worker(recipe(**scaling), nodes), nodes) == fitting


@pytest.mark.parametrize(
    ("nodes", "scaling", "message"),
    [
        (CPUS, {"workers": 9}, r"asks for 9 CPUs \(9 workers\), but this cluster has 8; lower scaling\.workers or"),
        (GPUS, {"workers": 4, "gpus_per_worker": 1}, r"asks for 4 GPUs \(4 workers\), but this cluster has 3"),
        (CPUS, {"workers": 2, "cpus_per_worker": 3}, None),
        (CPUS, {"workers": 1, "cpus_per_worker": 5}, r"workers=1 with 5 CPUs each: the 2 nodes of this cluster hold 0"),
        (GPUS, {"workers": 2, "gpus_per_worker": 1.5}, r"with 1 CPUs and 1\.5 GPUs each: the 3 nodes .* hold 1 such"),
    ],
)
def test_capacity(nodes: Sequence[dict[str, float]], scaling: dict[str, Any], message: str | None) -> None:
    if message is None:
        check_capacity(recipe(**scaling), nodes)
    else:
        with pytest.raises(UserError, match=message):
            check_capacity(recipe(**scaling), nodes)
