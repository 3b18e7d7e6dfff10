"""Fixtures of the distributed room: generated data, and one local Ray cluster for all launches."""

import logging
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.small_runs import small_data

ROOT = Path(__file__).parents[2]

# Before any import of ray: else a new local cluster writes a token into the home folder, and its clients ask for it.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["DS_ACCELERATOR"] = "cpu"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 generated movies: 6 to train on, which give 17 samples, one to validate, one to test."""
    return small_data(tmp_path_factory.mktemp("data"))


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
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            logging_level=logging.ERROR,
            object_store_memory=200 * 2**20,
        )
        yield
        ray.shutdown()
