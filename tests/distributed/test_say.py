"""What is said on a full disk is lost, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import pytest

from distributed.say import say, warn

FULL = Path("/dev/full")
REACHED = 7


def test_says_on_stdout_and_warns_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("step 1")
    warn("no room")
    assert capsys.readouterr() == ("step 1\n", "warning: no room\n")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full on this system")
@pytest.mark.parametrize(
    ("call", "reached"), [("say('step 1'); warn('no room')", True), ("print(1, flush=True)", False)]
)
def test_a_full_disk_under_the_log_ends_nothing(call: str, reached: bool) -> None:
    script = f"import os; from distributed.say import say, warn; {call}; os._exit({REACHED})"
    with FULL.open("wb") as full:
        ended = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=full, check=False)
    assert (ended.returncode == REACHED) == reached
