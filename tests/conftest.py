"""Fixtures that many tests share: real and generated data, and one local Ray cluster for all launches."""

import logging
import os
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from tests.support.heads import Head

ROOT = Path(__file__).parents[1]

# Many small tensors: more threads only wait for each other, the more so beside other programs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# Before any import of ray: else a new local cluster writes a token into the home folder, and its clients ask for it.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["DS_ACCELERATOR"] = "cpu"
# Mirrors of runs in other places; and keys that fit the S3 server of the tests alone.
MIRRORS = tempfile.TemporaryDirectory(prefix="meltmatch-mirrors-")
os.environ["MELTMATCH_CACHE"] = MIRRORS.name
os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}

# No test is judged by its time.
settings.register_profile("meltmatch", deadline=None)
settings.load_profile("meltmatch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first: files are shared out among processes, and one that takes minutes must
    not be the last to begin."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 generated movies: 6 to train on, which give 17 samples, one to validate, one to test."""
    from tests.support.small_runs import small_data

    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def head() -> "Iterator[Head]":
    """A cluster of 2 CPUs that `ray start` made, for all tests that submit jobs."""
    from tests.support.heads import running_head

    with running_head() as head:
        yield head


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray cluster of 4 CPUs that `distributed.train.launch` joins. W&B's server is out of its reach."""
    import ray

    scripts = sysconfig.get_path("scripts")  # where DeepSpeed finds ninja
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        # A process for each run, which watches for nodes that are being taken away: there is one node.
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            logging_level=logging.ERROR,
            object_store_memory=200 * 2**20,
        )
        yield
        ray.shutdown()
