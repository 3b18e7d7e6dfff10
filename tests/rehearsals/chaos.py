"""Kills workers and nodes of short runs at random, and counts what was lost: nothing but time, if all is well.

    python -m tests.rehearsals.chaos [--kills 200] [--seed 1] [--folder runs/chaos]

A local cluster of three nodes trains one small elastic run after another (2 workers, at least 1; ZeRO 0 to 3 in turn;
a checkpoint every few steps), while a worker or a whole node is killed at random moments, in half of the cases just
when a checkpoint is being written. After each run every step is in the log once, with the loss that it has undisturbed,
every complete checkpoint verifies, and no break has repeated more than an interval.
"""

import argparse
import json
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from cluster.local_cluster import LocalCluster, add, kill, start, stop
from distributed import checkpoint
from distributed.metrics_file import read_metrics
from distributed.recipe_file import dump_recipe
from models.errors import UserError
from tests.support.local_clusters import Driver, busy_nodes, logged_step, workers_of
from tests.support.small_runs import elastic, small_data, small_recipe
from tests.support.trainers import undisturbed
from tests.support.workers import on_workers

NODE = ("--num-cpus", 1, "--num-gpus", 0)
NODES, INTERVAL, STEPS, HANG_S = 3, 6, 120, 300.0
SETTINGS: dict[str, Any] = {
    **elastic(INTERVAL, STEPS),
    "training.batch_size": 64,
    "scaling.resize_interval_s": 5,
    "scaling.max_failures": 20,
    "scaling.collective_timeout_s": 60,
}


@dataclass
class Counts:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    faults: list[str] = field(default_factory=list)
    breaks: list[float] = field(default_factory=list)
    """Seconds without training of each break that a run went on from."""
    repeated: list[int] = field(default_factory=list)
    """Steps done twice after each."""
    passed_over: int = 0
    """Folders of checkpoints that a kill interrupted: incomplete, and so none."""


def being_saved(run: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    newest = next(iter(checkpoint.candidates(run)), None)
    try:
        begun = newest is not None and time.time() - newest.stat().st_mtime < 0.5  # an older one was interrupted
        return begun and newest is not None and not (newest / checkpoint.MANIFEST).exists()
    except FileNotFoundError:
        return False


def strike(made: LocalCluster, run: Path, training: Driver, source: random.Random, counts: Counts) -> bool:
    """Waits for a random moment, and kills; False where the run had ended by then."""
    whole_node, while_saving = source.random() < 0.25, source.random() < 0.5
    end, limit = time.monotonic() + source.uniform(0.0, 2.0), time.monotonic() + 60
    while time.monotonic() < end or not busy_nodes(made):
        if training.process.poll() is not None:
            return False
        time.sleep(0.02)
    node = source.choice(busy_nodes(made) or ["none"])
    victims = workers_of(made, node) if node in made.nodes else []
    while while_saving and not being_saved(run) and time.monotonic() < limit:
        if training.process.poll() is not None:
            return False
    if not victims:
        return True
    saving = being_saved(run)
    try:
        source.choice(victims).kill()  # the first to go, also where all of the node goes: this is the moment
    except psutil.NoSuchProcess:
        return True
    if whole_node:
        kill(made, node)
        add(made, NODE)
    counts.kills[f"{'node' if whole_node else 'worker'}, {'during a save' if saving else 'between saves'}"] += 1
    return True


def check(run: Path, losses: list[float], counts: Counts, name: str) -> None:
    """Compares what is left of a run with what should be."""
    records = read_metrics(run / "metrics.jsonl")
    steps = [record["step"] for record in records]
    if steps != list(range(1, STEPS + 1)):
        counts.faults.append(f"{name}: the log has {len(steps)} steps, not {STEPS}")
    else:
        worst = max(abs(r["loss"] - loss) / abs(loss) for r, loss in zip(records, losses, strict=True))
        if worst > 1e-5:
            counts.faults.append(f"{name}: a loss differs by {worst:.1e}")
    for record in records:
        if "seconds_without_training" in record:
            counts.breaks.append(record["seconds_without_training"])
            counts.repeated.append(record["repeated_steps"])
            if record["repeated_steps"] > INTERVAL:
                counts.faults.append(f"{name}: {record['repeated_steps']} steps repeated at step {record['step']}")
    for folder in checkpoint.candidates(run):
        if not (folder / checkpoint.MANIFEST).exists():
            counts.passed_over += 1
            continue
        try:
            checkpoint.read(folder)
        except UserError as error:
            counts.faults.append(f"{name}: {error}")


def one_run(made: LocalCluster, recipe: Any, losses: list[float], source: random.Random, counts: Counts) -> None:
    """Trains once, disturbed all the way."""
    run = recipe.folder
    path = recipe.storage / f"{recipe.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_recipe(recipe))
    training = Driver(made, recipe.storage / f"{recipe.name}.txt", "distributed.train", path)
    try:
        progress, since = 0, time.monotonic()
        disturb = source.randint(8, 14)
        while training.process.poll() is None:
            if disturb and strike(made, run, training, source, counts):
                disturb -= 1
            now = logged_step(run)
            if now != progress:
                progress, since = now, time.monotonic()
            if time.monotonic() - since > HANG_S:
                counts.faults.append(f"{recipe.name}: no new step for {HANG_S:g} s; see {training.output}")
                return
            time.sleep(0.05)
        if training.process.returncode:
            counts.faults.append(f"{recipe.name}: exit code {training.process.returncode}; see {training.output}")
            return
    finally:
        training.end()
    check(run, losses, counts, recipe.name)
    if not any(fault.startswith(recipe.name) for fault in counts.faults):
        shutil.rmtree(run)


def report(counts: Counts, seconds: float) -> str:
    """The counts as text."""
    breaks = sorted(counts.breaks)
    lines = [f"{sum(counts.kills.values())} kills in {counts.runs} runs, {seconds / 60:.0f} minutes"]
    lines += [f"  {number:4} {what}" for what, number in sorted(counts.kills.items())]
    if breaks:
        middle, late = breaks[len(breaks) // 2], breaks[int(0.9 * len(breaks))]
        lines.append(f"{len(breaks)} breaks: without training {middle:.1f} s in the median, {late:.1f} s in 9 of 10")
        lines.append(f"steps repeated a break: {sum(counts.repeated) / len(breaks):.1f} of at most {INTERVAL}")
    lines.append(f"{counts.passed_over} checkpoints interrupted, and so none; damaged, lost, or hanging:")
    lines += [f"  {fault}" for fault in counts.faults] or ["  none"]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsals.chaos")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"))
    options = parser.parse_args()
    folder = options.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = small_data(folder / "data", movies=80)
    source, counts, began = random.Random(options.seed), Counts(), time.monotonic()
    losses = on_workers(1, undisturbed, small_recipe(data, folder / "nothing", SETTINGS))[0]
    made = start(f"chaos-{options.seed}", NODES, NODE)
    try:
        while sum(counts.kills.values()) < options.kills:
            settings = {**SETTINGS, "name": f"run-{counts.runs}", "engine.zero_stage": counts.runs % 4}
            one_run(made, small_recipe(data, folder / "runs", settings), losses, source, counts)
            counts.runs += 1
            (folder / "counts.json").write_text(json.dumps(vars(counts), indent=1))
            print(report(counts, time.monotonic() - began), flush=True)
    finally:
        stop(made)


if __name__ == "__main__":
    main()
