"""Fair timing: contestants take turns, medians are compared, and the machine is described with the figures."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch


def synchronise(device: torch.device) -> None:
    """Waits until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    seldom: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round that does not count.

    `seldom`: contestants so slow that they leave the race after so many counted rounds.
    """
    last = {name: (seldom or {}).get(name, rounds) for name in contestants}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            if number > last[name]:
                continue
            print(f"\r  round {number} of {rounds}: {name:<60}", end="", file=sys.stderr, flush=True)
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    print("\r" + " " * 90 + "\r", end="", file=sys.stderr, flush=True)
    return seconds


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table under a heading."""
    lines = [f"### {title}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def rows_of(seconds: Mapping[str, list[float]], *labels: str) -> list[list[str]]:
    """A row a contestant: labels, name, median and range in ms, and how many times the first one's median it takes."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    return [
        [
            *labels,
            name,
            f"{1000 * medians[name]:.1f}",
            f"{1000 * min(times):.1f} to {1000 * max(times):.1f}",
            f"{medians[name] / first:.2f}",
        ]
        for name, times in seconds.items()
    ]


HEADS = ("what", "median ms", "range ms", "times the first")


def machine(device: torch.device) -> str:
    """What the figures were taken on, and when."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.partition(":")[2].strip() for line in info.open() if line.startswith("model name")), cpu)
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"{cpu}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {_memory():.0f} GiB",
        f"load before {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}, torch {torch.__version__}",
    ]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return "; ".join(parts)


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def resident_mib() -> float:
    """This process's memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
