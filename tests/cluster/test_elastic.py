"""Nodes vanish and come while a run goes on: the same numbers, and at most one checkpoint interval is done again."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.local_cluster import LocalCluster, add, drain, kill, start, stop
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe
from tests.support.local_clusters import busy_nodes, driver, logged_step, newest_step, workers_of
from tests.support.small_runs import elastic, small_data, small_recipe
from tests.support.trainers import undisturbed
from tests.support.workers import on_workers

pytestmark = pytest.mark.rehearsal

NODE = ("--num-cpus", 1, "--num-gpus", 0)
INTERVAL = 5
STEPS = 240
ELASTIC: dict[str, Any] = {
    **elastic(INTERVAL, STEPS),
    "training.batch_size": 256,  # a step takes long enough for something to happen in it
    "scaling.resize_interval_s": 3,
    "scaling.max_failures": 1,  # in a row: this run has more failures than that
    "engine.zero_stage": 2,
}


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[LocalCluster]:
    """A head without CPUs and three nodes of one CPU each."""
    made = start("elastic-test", 3, NODE)
    yield made
    stop(made)


def reached(run: Path, step: int) -> bool:
    return newest_step(run) >= step


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many movies that there are three batches an epoch."""
    return small_data(tmp_path_factory.mktemp("data"), movies=300)


def test_nodes_vanish_and_come_and_the_numbers_stay(local_cluster: LocalCluster, data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, tmp_path / "runs", ELASTIC)
    path, run = tmp_path / "recipe.yaml", recipe.folder
    path.write_text(dump_recipe(recipe))
    with driver(local_cluster, tmp_path / "output", "distributed.train", path) as training:
        for at in (STEPS // 5, 2 * STEPS // 5):
            training.until(partial(reached, run, at), "progress")
            before = logged_step(run)
            kill(local_cluster, busy_nodes(local_cluster)[-1])
            training.until(partial(reached, run, before + 2 * INTERVAL), "going on")
        assert len(busy_nodes(local_cluster)) == 1  # three nodes were there, and two were killed
        add(local_cluster, NODE)
        training.until(lambda: len(busy_nodes(local_cluster)) == 2, "taking the new node")
        assert training.ended() == 0, training.text
    print(training.text)
    records = read_metrics(run / "metrics.jsonl")
    losses = on_workers(1, undisturbed, small_recipe(data, data / "nothing-is-saved", ELASTIC))[0]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-5)
    breaks = [record for record in records if "seconds_without_training" in record]
    assert len(breaks) == 3
    assert all(record["repeated_steps"] <= INTERVAL for record in breaks)
    assert breaks[-1]["repeated_steps"] == 0  # before it takes more workers it saves


def test_a_warned_run_saves_first(local_cluster: LocalCluster, data: Path, tmp_path: Path) -> None:
    """As when a cloud takes a spot instance back."""
    while len(local_cluster.living()) < 3:
        add(local_cluster, NODE)
    settings = {**ELASTIC, "checkpoint.every_steps": None, "training.evaluate_every": STEPS}
    recipe = small_recipe(data, tmp_path / "runs", settings)
    path, run = tmp_path / "recipe.yaml", recipe.folder
    path.write_text(dump_recipe(recipe))
    with driver(local_cluster, tmp_path / "output", "distributed.train", path) as training:
        training.until(lambda: logged_step(run) >= 10, "progress")
        assert newest_step(run) == 0
        node = busy_nodes(local_cluster)[-1]
        drain(local_cluster, node, 8)
        training.until(lambda: newest_step(run), "a checkpoint")
        assert workers_of(local_cluster, node)  # it is there still
        training.until(lambda: "resumed from step" in training.text, "going on elsewhere")
        assert training.ended() == 0, training.text
    assert "will be taken away" in training.text
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == list(range(1, STEPS + 1))


def test_a_dead_head_ends_the_run_and_another_cluster_goes_on(data: Path, tmp_path: Path) -> None:
    settings = {**ELASTIC, "scaling.min_workers": None}
    recipe = small_recipe(data, tmp_path / "runs", settings)
    path, run = tmp_path / "recipe.yaml", recipe.folder
    path.write_text(dump_recipe(recipe))
    first = start("dying-test", 2, NODE)
    try:
        with driver(first, tmp_path / "first", "distributed.train", path) as training:
            training.until(partial(reached, run, STEPS // 5), "progress")
            kill(first, "head")
            assert training.ended() != 0
    finally:
        stop(first)
    at = newest_step(run)
    second = start("living-test", 2, NODE)
    try:
        with driver(second, tmp_path / "second", "distributed.train", path) as training:
            assert training.ended() == 0, training.text
            assert f"resumed from step {at} " in training.text
    finally:
        stop(second)
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == list(range(1, STEPS + 1))
