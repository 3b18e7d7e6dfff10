"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest


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
