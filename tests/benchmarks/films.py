"""Cutting a film into clips, beside PySceneDetect's own command and library on the same film."""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from scenedetect import SceneManager, open_video
from scenedetect.detectors import ContentDetector

from models.data.rendering import Scene, Subject, render
from models.data.segmentation import segment
from tests.benchmarks.timing import HEADS, rows_of, table, take_turns

OURS = "import sys; from pathlib import Path; from models.data.segmentation import segment; segment(Path(sys.argv[1]))"


def films(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The detector of the paper (content, threshold 20, 5 frames), on a real film where MELTMATCH_DATA has one."""
    with tempfile.TemporaryDirectory() as folder:
        if root := os.environ.get("MELTMATCH_DATA"):
            path, name = Path(root) / "clips" / "testvideo.mp4", "testvideo.mp4, 720 frames of 1280x720"
        else:
            path, name = Path(folder) / "rendered.mp4", "rendered, 720 frames of 1280x720"
            render(path, [Scene(Subject(n % 6, n % 6, n % 8, n % 4), 0, 3.0) for n in range(10)], (1280, 720), 24)
        expected = _library(path)
        if list(segment(path).cuts) != expected:  # or the comparison would mean nothing
            raise RuntimeError(f"{path}: {segment(path).cuts} are not the cuts of PySceneDetect, {expected}")
        command = Path(sysconfig.get_path("scripts")) / "scenedetect"
        content = ("detect-content", "-t", "20", "-m", "5", "list-scenes", "-n", "-q")
        ways: dict[str, dict[str, Callable[[], object]]] = {
            "in one process": {
                "models.data.segmentation": lambda: segment(path),
                "PySceneDetect's SceneManager": lambda: _library(path),
            },
            "start of Python included": {
                "models.data.segmentation": lambda: _run(sys.executable, "-c", OURS, str(path)),
                "the command scenedetect": lambda: _run(str(command), "-i", str(path), "-q", *content),
            },
        }
        rows: list[list[str]] = []
        for way, contestants in ways.items():
            spent: dict[str, list[float]] = {what: [] for what in contestants}
            timed = {what: _noting(run, spent[what]) for what, run in contestants.items()}
            rows += rows_of(take_turns(timed, arguments.rounds, device), name, f"{way}, time")
            rows += rows_of({what: times[1:] for what, times in spent.items()}, name, f"{way}, processor time")
    yield table("A film into clips", ("film", "measured", *HEADS), rows)


def _noting(run: Callable[[], object], spent: list[float]) -> Callable[[], None]:
    """`run`, noting the processor time of this process and of those that it starts: the same on a busy machine."""

    def noting() -> None:
        before = sum(os.times()[:4])
        run()
        spent.append(sum(os.times()[:4]) - before)

    return noting


def _library(path: Path) -> list[int]:
    manager = SceneManager()
    manager.add_detector(ContentDetector(threshold=20, min_scene_len=5))
    manager.detect_scenes(open_video(str(path)))
    return [start.frame_num for start, _ in manager.get_scene_list()][1:]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
