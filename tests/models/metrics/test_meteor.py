"""METEOR: by hand, an empty candidate, and a Java program that is missing or fails."""

import os
import shutil
from pathlib import Path

import pytest

from models.errors import UserError
from models.metrics.meteor import meteor

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java: no `java` on PATH")


def program(folder: Path, script: str) -> None:
    """A `java` that does what `script` says."""
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@needs_java
def test_by_hand_with_an_empty_candidate() -> None:
    # All words are content words that match as they are; the empty candidate matches none of "brown birds".
    precision, recall = 1, 3 / (4 + 2)
    f = precision * recall / (0.85 * precision + 0.15 * recall)
    penalty = 0.6 * (2 / 3) ** 0.2  # two chunks, "cats chase" and "dogs", of three matched words
    found = meteor(["cats chase dogs", ""], [["cats chase small dogs"], ["brown birds", "brown birds"]])
    assert found == pytest.approx(f * (1 - penalty))


def test_without_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no `java` on PATH; install"):
        meteor(["a"], [["a"]])


def test_what_a_failing_program_says_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, 'echo "Error: no memory" >&2\nprintf "\\tat some.frame\\n" >&2\nexit 3')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"it said: Error: no memory$"):
        meteor(["word " * 50_000], [["a"]])  # more than a pipe holds


@pytest.mark.parametrize(
    "script", ["", "read line\necho 1", "read a\necho 1\nread b\necho 1\nread c\necho 0.5\necho 0.5"]
)
def test_a_program_that_ends_early_is_noticed(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="it said: nothing"):  # two statistics and three scores would be right
        meteor(["a", "b"], [["a"], ["b"]])


def test_a_talkative_program_neither_blocks_nor_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = "yes complaint | head -n 100000 >&2"
    program(
        tmp_path,
        f"echo $$ > {tmp_path}/pid\n{talk}\nread line\necho 1\nread line\necho 0.25\necho 0.75\nexec sleep 1000",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert meteor(["a"], [["a"]]) == 0.75
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
