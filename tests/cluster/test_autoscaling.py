"""Ray's own autoscaler, with processes for machines: from no worker to those that are needed, and back to none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.fake_cloud import Cloud
from cluster.local_cluster import LocalCluster, start, stop
from distributed.recipe_file import dump_recipe
from tests.support.local_clusters import Driver, driver
from tests.support.small_runs import small_recipe

pytestmark = pytest.mark.rehearsal

IDLE_S = 10.0


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[LocalCluster]:
    """A head without CPUs, and up to three nodes of one CPU each."""
    made = start("autoscaling-test", 0, (), cloud=Cloud(least=0, most=3, cpus=1, gpus=0, idle_s=IDLE_S))
    yield made
    stop(made)


def workers_there(made: LocalCluster) -> int:
    return len(made.living()) - 1


def watch(made: LocalCluster, command: Driver) -> int:
    """Follows a command to its end -> the most nodes that there were beside the head."""
    most = 0
    while command.process.poll() is None:
        most = max(most, workers_there(made))
    assert command.ended() == 0, command.text
    return most


def recipe_file(data: Path, folder: Path, **changes: object) -> Path:
    recipe = small_recipe(data, folder / "runs", {"scaling.gpus_per_worker": 0, **changes})
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return path


def wait_for_none(made: LocalCluster, after: Driver) -> None:
    with driver(
        made, after.output.with_name("waiting"), "timeit", "-n", "1", "import time; time.sleep(120)"
    ) as waiting:
        waiting.until(lambda: workers_there(made) == 0, "return to no nodes")


def test_a_job_brings_the_nodes_that_it_needs(local_cluster: LocalCluster, data: Path, tmp_path: Path) -> None:
    path = recipe_file(data, tmp_path, **{"scaling.workers": 2})
    train = ("--wait", "--", "python", "-m", "distributed.train", path)
    assert workers_there(local_cluster) == 0
    with driver(local_cluster, tmp_path / "output", "cluster.submit", *train) as job:
        assert watch(local_cluster, job) == 2
        assert "0 of 2 workers have room; waiting for nodes with 1 CPUs each" in job.text
        assert "finished run: step 6" in job.text
    wait_for_none(local_cluster, job)


def test_a_sweep_brings_nodes_for_its_trials(local_cluster: LocalCluster, data: Path, tmp_path: Path) -> None:
    path = recipe_file(data, tmp_path, **{"training.epochs": 4})
    space = {
        "name": "sweep",
        "recipe": str(path),
        "storage": str(tmp_path / "sweeps"),
        "space": {"optimiser.eta": {"loguniform": [1e-4, 1e-2]}},
        "searcher": {"name": "random"},
        "scheduler": {"name": "none"},
        "budget": {"trials": 6, "concurrent": 3},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    sweep = ("--wait", "--", "python", "-m", "tuning.sweep", tmp_path / "space.yaml")
    assert workers_there(local_cluster) == 0
    with driver(local_cluster, tmp_path / "output", "cluster.submit", *sweep) as job:
        assert watch(local_cluster, job) == 3
    rows = (tmp_path / "sweeps" / "sweep" / "results.csv").read_text().splitlines()
    assert sum(",finished," in row for row in rows) == 6
    wait_for_none(local_cluster, job)
