"""Checks a Ray cluster before one trains on it, and says what to do about what is wrong.

    python -m cluster.doctor [ADDRESS] [--storage PLACE]

ADDRESS: HOST:PORT of the head, ray://HOST:PORT, or auto; else RAY_ADDRESS, else the cluster on this machine. From a
machine that reaches the dashboard alone: python -m cluster.submit --wait -- python -m cluster.doctor

Exit code: 0 all is well (warnings allowed), 1 a check failed, 2 a mistake in the command or no such cluster.
"""

import argparse
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from cluster import checks, checks_together
from cluster.asking import Node, ask, ask_all, ask_together, nodes_up, start_probe, stop
from cluster.command import UserError, main_of
from cluster.findings import CLUSTER, Finding, failed
from cluster.joining import VersionMismatchError, join
from cluster.probe import installed, python_version
from cluster.table import show

_WANDB_S = 4.0
_REACH_S = 5.0
_GROUP_S = 20.0
_MARGIN_S = 10.0  # for the way there and back, and for a busy node
_MEGABYTES = 64
_CLOCK_ROUNDS = 5
_STORAGES = {"file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"}


def doctor(arguments: Sequence[str]) -> int:
    """The command. Raises UserError for a mistake in it, or where there is no such cluster."""
    parser = argparse.ArgumentParser(prog="python -m cluster.doctor", description="Check a Ray cluster.")
    parser.add_argument("address", nargs="?", help="HOST:PORT of the head, ray://HOST:PORT, or auto (also RAY_ADDRESS)")
    parser.add_argument("--storage", metavar="PLACE", help="the runs' storage: a folder or URI that all nodes share")
    parser.add_argument("--no-bandwidth", action="store_true", help="move no data to see how fast the network is")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="seconds that a node may take to answer")
    options = parser.parse_args(arguments)
    check_place(options.storage)
    if not options.limit > 0:
        raise UserError(f"--limit {options.limit:g}: expected seconds, more than 0")
    driver = {"python": python_version(), "packages": installed(checks.PACKAGES)}
    title = f"driver: Python {driver['python']}, Ray {installed(['ray'])['ray']}"
    try:
        address = join(options.address, options.limit)
    except VersionMismatchError as mismatch:
        todo = "run the doctor with the cluster's own Python and Ray, or install these on all nodes"
        show(title, [], [Finding("versions", CLUSTER, "fail", str(mismatch), todo)])
        return 1
    import ray

    try:
        nodes = nodes_up()
        findings = examine(nodes, driver, options.storage, options.limit, 0 if options.no_bandwidth else _MEGABYTES)
    finally:
        ray.shutdown()
    show(f"{address}; {title}", [node.name for node in nodes], findings)
    return int(failed(findings))


def check_place(place: str | None) -> None:
    """Raises UserError for a storage place that no node could understand."""
    if place is None:
        return
    scheme, colon, _ = place.partition("://")
    if colon and scheme not in _STORAGES:
        raise UserError(f"--storage: {scheme}:// is not known; expected a folder or one of {', '.join(_STORAGES)}://")
    if not colon and not PurePosixPath(place).is_absolute():
        raise UserError(f"--storage {place}: expected an absolute path, for nodes know no current folder, or a URI")


def examine(
    nodes: Sequence[Node], driver: Mapping[str, Any], place: str | None, limit_s: float, megabytes: int
) -> list[Finding]:
    """All checks of a cluster that was joined."""
    probes = {node.name: start_probe(node) for node in nodes}
    extra: list[Any] = []
    try:
        asked = {
            node.name: probes[node.name].facts.remote(checks.PACKAGES, node.resources.get("GPU", 0) > 0)
            for node in nodes
        }
        facts, faults = ask(asked, limit_s)
        findings = checks.answering(list(probes), faults)
        findings += checks.versions(facts, driver)
        findings += checks.building(facts)
        findings += checks.gpus(facts, _resource(nodes, "GPU"))
        findings += checks.room(facts, _resource(nodes, "object_store_memory"))
        up = [node for node in nodes if node.name in facts]
        there = {node.name: probes[node.name] for node in up}
        findings += checks.clocks(clocks(there, limit_s))
        findings += network(up, there, facts, extra, limit_s, megabytes)
        findings += storage(there, place, limit_s)
        mode, url = os.environ.get("WANDB_MODE"), os.environ.get("WANDB_BASE_URL")
        asked = {name: probe.wandb.remote(mode, url, _WANDB_S) for name, probe in there.items()}
        findings += checks.wandb(ask_all(asked, _WANDB_S + _MARGIN_S))
        if head := next((node for node in up if node.head), None):
            findings += checks.autoscaler(len(nodes), facts[head.name]["autoscaler"])
        return findings
    finally:
        stop([*probes.values(), *extra])


def _resource(nodes: Sequence[Node], name: str) -> dict[str, float]:
    return {node.name: node.resources.get(name, 0.0) for node in nodes}


def clocks(probes: Mapping[str, Any], limit_s: float) -> dict[str, tuple[float, float]]:
    """How far each node's clock is ahead of this one's, and how far that may be off: half the shortest round trip."""
    best: dict[str, tuple[float, float]] = {}
    for name, probe in probes.items():
        for _ in range(_CLOCK_ROUNDS):
            asked = time.time()
            answers, _ = ask({name: probe.clock.remote()}, limit_s)
            half = (time.time() - asked) / 2
            if name not in answers:
                break
            if name not in best or half < best[name][1]:
                best[name] = (answers[name] - asked - half, half)
    return best


def network(
    nodes: Sequence[Node],
    probes: Mapping[str, Any],
    facts: Mapping[str, Any],
    extra: list[Any],
    limit_s: float,
    megabytes: int,
) -> list[Finding]:
    """Connections between all pairs of nodes, then process groups of all of them; probes it starts go to `extra`."""
    findings: list[Finding] = []
    if not nodes:
        return findings
    if len(nodes) > 1:
        reached = reach(nodes, probes)
        findings += checks_together.reaching(reached)
        if any(fault for others in reached.values() for fault in others.values()):
            return [*findings, checks_together.untried("gloo", "first all nodes must reach each other")]
    loaded = ask_all({name: probe.load_torch.remote() for name, probe in probes.items()}, limit_s)
    if broken := {name: answer["error"] for name, answer in loaded.items() if answer["error"]}:
        todo = "reinstall torch on that node: pip install -c constraints.txt torch"
        findings += [Finding("torch loads", name, "fail", "no", todo, error) for name, error in broken.items()]
        return [*findings, checks_together.untried("gloo", "torch does not load everywhere")]
    between = "nodes"
    members = [(node, probes[node.name]) for node in nodes]
    if len(members) == 1:
        between = "processes"
        extra.append(start_probe(nodes[0], "beside"))
        members.append((Node("beside", nodes[0].id, nodes[0].address, False, {}), extra[0]))
        ask({"beside": extra[0].load_torch.remote()}, limit_s)
        findings.append(Finding("gloo", CLUSTER, "none", "between two processes on the one node that answers"))
    findings += group("gloo", members, [0] * len(members), megabytes, between)
    with_gpu = [(node, probe) for node, probe in members if (facts.get(node.name) or {"gpus": {}})["gpus"].get("torch")]
    if between == "processes" and with_gpu and facts[nodes[0].name]["gpus"]["torch"] > 1:
        findings += group("nccl", members, [0, 1], megabytes, between)
    elif len(with_gpu) > 1:
        findings += group("nccl", with_gpu, [0] * len(with_gpu), megabytes, between)
    return findings


def reach(nodes: Sequence[Node], probes: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """For each node, what is wrong with its way to each other one; empty where nothing is."""
    ports, deaf = ask({name: probe.listen.remote() for name, probe in probes.items()}, _MARGIN_S)
    where = {node.name: (node.address, ports[node.name]) for node in nodes if node.name in ports}
    asked = {
        name: probe.reach.remote({other: at for other, at in where.items() if other != name}, _REACH_S)
        for name, probe in probes.items()
    }
    limit_s = _REACH_S * (1 + len(nodes) // 32) + _MARGIN_S
    answers, faults = ask(asked, limit_s)
    for name, fault in faults.items():
        answers[name] = {other: fault for other in probes if other != name}
    for name, fault in deaf.items():
        for other in set(probes) - {name}:
            answers[other][name] = f"it could not listen: {fault}"
    return answers


Members = Sequence[tuple[Node, Any]]


def group(backend: str, members: Members, gpus: Sequence[int], megabytes: int, between: str) -> list[Finding]:
    """A process group of all; if that fails, of pairs in a ring, so that the broken ones have names."""
    answers = joined(backend, members, gpus, megabytes)
    pairs: dict[tuple[str, str], tuple[str, str]] = {}
    if any(answer["error"] for answer in answers.values()):
        several = len(members) > 2
        for pair in pairwise([*members, members[0]]) if several else [(members[0], members[1])]:
            told = joined(backend, pair, [0, 0], 0) if several else answers
            first, second = (node.name for node, _ in pair)
            pairs[first, second] = told[first]["error"], told[second]["error"]
    return checks_together.group(backend, answers, pairs, between)


def joined(backend: str, members: Members, gpus: Sequence[int], megabytes: int) -> dict[str, Any]:
    """What each member says of one process group."""
    (first, opener) = members[0]
    ports, faults = ask({first.name: opener.open_store.remote(_GROUP_S)}, _MARGIN_S)
    if faults:
        return {node.name: {"error": f"{first.name} opened no store: {faults[first.name]}"} for node, _ in members}
    store = (first.address, ports[first.name])
    asked = {
        node.name: probe.join.remote(backend, store, rank, len(members), gpus[rank], megabytes, _GROUP_S)
        for rank, (node, probe) in enumerate(members)
    }
    return ask_together(asked, 2 * _GROUP_S + _MARGIN_S, _MARGIN_S)


def storage(probes: Mapping[str, Any], place: str | None, limit_s: float) -> list[Finding]:
    """Every node writes a file, every node reads them all, and they are removed."""
    if place is None:
        return checks_together.storage(None, {}, {})
    run = uuid.uuid4().hex
    files = {name: f".doctor-{run}-{number}" for number, name in enumerate(probes)}
    asked = {name: probe.write.remote(place, files[name], name) for name, probe in probes.items()}
    written = ask_all(asked, limit_s)
    writers = {files[name]: name for name, answer in written.items() if not answer["error"]}
    asked = {name: probes[name].read.remote(place, list(writers)) for name in writers.values()}
    answers, faults = ask(asked, limit_s)
    read: dict[str, Any] = {
        name: {writers[file]: text for file, text in texts.items()} for name, texts in answers.items()
    }
    asked = {name: probe.remove.remote(place, files[name]) for name, probe in probes.items()}
    left, lost = ask(asked, limit_s)
    findings = checks_together.storage(place, written, read | faults)
    for name in writers.values():
        if why := left.get(name) or lost.get(name):
            todo = f"remove {files[name]} there by hand"
            findings.append(Finding("storage", name, "warn", "a file stays behind", todo, why))
    return findings


if __name__ == "__main__":
    main_of(doctor)
