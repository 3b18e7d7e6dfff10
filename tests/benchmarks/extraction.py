"""Extraction of 200 real videos and four bad files, whose driver is killed half-way: speed, memory, going on."""

import argparse
import csv
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.benchmarks.timing import table
from tests.support.films import cut_short, write_sound

FILMS = 200


def extraction(arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Copies of MSR-VTT's sample clips; needs MELTMATCH_DATA."""
    root = os.environ.get("MELTMATCH_DATA")
    if not root:
        print("extraction: needs MELTMATCH_DATA", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as place:
        videos, to = Path(place) / "videos", Path(place) / "to"
        _fill(videos, sorted((Path(root) / "msrvtt" / "videos").glob("*.mp4")))
        first = _Run(videos, to, kill_after=FILMS // 2)
        before = {path.name: path.stat().st_mtime_ns for path in (to / "films").iterdir()}
        second = _Run(videos, to)
        after = {path.name: path.stat().st_mtime_ns for path in (to / "films").iterdir()}
        redone = sum(after[name] != when for name, when in before.items())
        with (to / "failed.csv").open() as file:
            failed = {Path(row["file"]).name: row["reason"] for row in csv.DictReader(file)}
        if len(after) != FILMS or redone or len(failed) != 4 or first.ended != -signal.SIGKILL or second.ended:
            raise RuntimeError(f"{len(after)} films, {redone} redone, {failed}, {first.ended}, {second.ended}")
    heads = ("run", "films", "s", "s before the first", "films/s after it")
    rows = [run.row(name) for name, run in (("until the driver was killed", first), ("the same command again", second))]
    yield table(f"Extraction of {FILMS} MSR-VTT clips and 4 files that are none", heads, rows)
    memory = first.memory() + second.memory()
    yield table("The same: memory in MiB, median over each quarter of the films of a run", MEMORY, memory)
    reasons = [[name, why.split(": ", 1)[1]] for name, why in failed.items()]
    yield table("The same: failed.csv", ("file", "reason"), reasons)


MEMORY = ("films done", "driver", "workers", "Ray's servers", "object store, at most")


def _fill(videos: Path, sources: list[Path]) -> None:
    videos.mkdir()
    for number in range(FILMS):
        source = sources[number % len(sources)]
        shutil.copy(source, videos / f"{number:03d}-{source.stem}.mp4")
    # Under names that come in the middle of the others.
    cut_short(videos / "050-cut.mp4", sources[0], 0.5)
    (videos / "070-empty.mp4").touch()
    write_sound(videos / "110-sound.mp4")
    (videos / "130-text.mp4").write_text("no video")


class _Run:
    """The command in a process of its own, watched; its whole family is gone when it ends."""

    def __init__(self, videos: Path, to: Path, kill_after: int | None = None) -> None:
        began, self.samples = time.monotonic(), list[tuple[int, float, dict[str, float]]]()
        done = folder_size(to)
        self.began_with, family = done, set[int]()
        command = [sys.executable, "-m", "distributed.extract", str(videos), "--to", str(to)]
        log = to.with_suffix(".log").open("ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).resolve().parents[2])
        while process.poll() is None:
            time.sleep(1)
            family = descendants(process.pid)
            done = folder_size(to)
            self.samples.append((done, time.monotonic() - began, _memory(process.pid, family)))
            print(f"\r  extraction: {done} of {FILMS} films ", end="", file=sys.stderr, flush=True)
            if kill_after is not None and done >= kill_after:
                process.kill()
                process.wait()
        self.seconds, self.ended, self.done = time.monotonic() - began, process.returncode, folder_size(to)
        log.close()
        while any(map(_runs, family)):  # Ray's processes notice that their driver is gone
            time.sleep(0.2)
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)

    def row(self, name: str) -> list[str]:
        counted = [(done, when) for done, when, _ in self.samples if done > self.began_with]
        (done, when), (last, end) = counted[0], next(pair for pair in counted if pair[0] == counted[-1][0])
        speed = (last - done) / (end - when)
        return [name, str(self.done - self.began_with), f"{self.seconds:.0f}", f"{when:.0f}", f"{speed:.2f}"]

    def memory(self) -> list[list[str]]:
        rows = []
        count = self.done - self.began_with
        for quarter in range(4):
            low, high = (self.began_with + count * part // 4 for part in (quarter, quarter + 1))
            # When the last film is there, processes end.
            inside = [seen for done, _, seen in self.samples if low < done <= high and done < self.done]
            if inside:
                medians = [statistics.median(seen[kind] for seen in inside) for kind in MEMORY[1:]]
                rows.append([f"{low} to {high}", *(f"{value:.0f}" for value in medians)])
        return rows


def folder_size(to: Path) -> int:
    """Films that have their file."""
    return len(list((to / "films").glob("*.safetensors")))


def descendants(pid: int) -> set[int]:
    """All processes below one (Linux)."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    found, news = set[int](), {pid}
    while news:
        news = {child for child, parent in parents.items() if parent in news} - found
        found |= news
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def _memory(driver: int, family: set[int]) -> dict[str, float]:
    """MiB by kind: each process's own memory; shared pages count for each process that has touched them."""
    seen = dict.fromkeys(MEMORY[1:], 0.0)
    for pid in {driver, *family}:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        except OSError:
            continue
        own, shared = (float(facts.get(key, "0 kB").split()[0]) / 1024 for key in ("RssAnon", "RssShmem"))
        kind = "driver" if pid == driver else "workers" if command.startswith(b"ray::") else "Ray's servers"
        seen[kind] += own
        seen["object store, at most"] += shared
    return seen
