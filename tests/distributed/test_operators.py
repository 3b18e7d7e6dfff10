"""DeepSpeed's operator is built under a lock that dies with its holder."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

BUILD = """
import os
from distributed.operators import EXTENSIONS, build_operators
build_operators()
print(os.environ[EXTENSIONS])
"""


def build() -> Path:
    """Builds, or loads, the operator in a process of its own -> the folder that it is in."""
    command = [sys.executable, "-c", BUILD]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    return Path(done.stdout.splitlines()[-1])


def test_what_a_killed_build_left_blocks_nobody() -> None:
    """torch waits for ever for a file named `lock` to go, which only the one that made it removes."""
    folder = build()
    (operator,) = [path.parent for path in folder.glob("*/*.so")]
    (operator / "lock").touch()
    assert build() == folder
    assert not (operator / "lock").exists()


def test_it_lies_where_caches_lie(tmp_path: Path) -> None:
    show = "from distributed.operators import _cache; print(_cache())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", show]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(tmp_path / "meltmatch")
