"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Many small tensors: more threads only wait for each other, the more so beside other programs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# Ray would otherwise make a token that clients with an address do not send. Before ray is imported.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# No test is judged by its time.
settings.register_profile("meltmatch", deadline=None)
settings.load_profile("meltmatch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, one has all that start Ray clusters, and a file's others stay together,
    because they share fixtures."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        group = "clusters" if {"cluster", "head"} & set(fixtures) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets, from MELTMATCH_DATA; tests that need it are skipped by name without it."""
    root = os.environ.get("MELTMATCH_DATA")
    if not root:
        pytest.skip("needs real data: set MELTMATCH_DATA to the folder that holds yms/, yms_msrvtt/, msrvtt/")
    return Path(root)


@pytest.fixture(scope="session")
def golden_root(data_root: Path) -> Path:
    """The folder of conformance vectors, beside the data."""
    golden = data_root.parent / "golden"
    if not golden.is_dir():
        pytest.skip(f"needs the conformance vectors in {golden.name}/ beside the data folder")
    return golden
