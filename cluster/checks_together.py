"""Checks of what nodes do together, network and storage: pure functions from their answers to findings."""

from collections.abc import Mapping

from cluster.findings import CLUSTER, MIB, By, Finding, State, listed, size
from cluster.shared import shown

Pairs = Mapping[tuple[str, str], tuple[str, str]]
"""What went wrong between two nodes, as each of them tells it; empty where it says that all went well."""

_SLOW_MB_PER_S = 100.0  # about what a network of 1 Gbit/s carries
_FREE = 1024 * MIB


def reaching(faults: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Whether each node opens a connection to each other: `faults[a][b]` says why `a` does not reach `b`."""
    findings = []
    todo = "open all TCP ports between the nodes (firewall, security group, NetworkPolicy); Ray and torch choose freely"
    for node, others in faults.items():
        broken = {other: fault for other, fault in others.items() if fault}
        if broken:
            found = f"cannot reach {listed(list(broken))}"
            detail = "; ".join(f"{other} at {fault}" for other, fault in list(broken.items())[:4])
            findings.append(Finding("reaches others", node, "fail", found, todo, detail))
        else:
            findings.append(Finding("reaches others", node, "ok", f"all {len(others)}"))
    return findings


def group(backend: str, answers: By, pairs: Pairs, between: str = "nodes") -> list[Finding]:
    """A process group of all nodes: how fast it is, or if it did not come to be, which pairs cannot form one.

    `pairs` are those that were tried after the group of all had failed. `between` says what the group's members are.
    """
    if all(not answer["error"] for answer in answers.values()):
        return [
            finding for node, answer in answers.items() for finding in _speed(backend, node, answer, between == "nodes")
        ]
    variable = "GLOO_SOCKET_IFNAME" if backend == "gloo" else "NCCL_SOCKET_IFNAME"
    todo = (
        f"set {variable} to the interface of the nodes' network (`ip addr`) before `ray start`, and see that each "
        "node's host name is not 127.0.1.1 in its /etc/hosts"
    )
    broken = {names: told for names, told in pairs.items() if any(told)}
    findings = []
    for node, answer in answers.items():
        partners = {b if a == node else a: told[a != node] for (a, b), told in broken.items() if node in {a, b}}
        if partners:
            detail = "; ".join(f"with {other}: {fault or 'it fails there'}" for other, fault in partners.items())
            findings.append(Finding(backend, node, "fail", f"no group with {listed(list(partners))}", todo, detail))
        elif broken:
            findings.append(Finding(backend, node, "none", "pairs work"))
        else:
            why = answer["error"] or "it failed on another node"
            found = "only pairs work" if pairs else "no group"
            findings.append(Finding(backend, node, "fail", found, todo, why))
    return findings


def _speed(backend: str, node: str, answer: Mapping[str, float], real: bool) -> list[Finding]:
    findings = [Finding(backend, node, "ok", f"barrier {answer['barrier_ms']:.1f} ms")]
    speed = answer["mb_per_s"]
    if speed is not None:
        slow = real and speed < _SLOW_MB_PER_S
        state: State = "warn" if slow else "ok"
        todo = "training that shards or sums over nodes waits for this: faster network, right interface, or fewer nodes"
        findings.append(Finding(f"{backend} all_reduce", node, state, f"{speed:.0f} MB/s", todo if slow else ""))
    return findings


def untried(backend: str, why: str) -> Finding:
    """Says that no process group was tried."""
    return Finding(backend, CLUSTER, "none", f"not tried: {why}")


def storage(place: str | None, written: By, read: Mapping[str, Mapping[str, str] | str]) -> list[Finding]:
    """Whether every node writes into the place and reads what the others wrote there.

    `read` has for each node the texts by their writer, or why it could not read; a text is its writer's name.
    """
    if place is None:
        return [Finding("storage", CLUSTER, "none", "not checked: name the runs' storage with --storage PLACE")]
    name, findings = shown(place), []
    writers = [node for node, answer in written.items() if not answer["error"]]
    for node, answer in written.items():
        if answer["error"]:
            todo = f"mount it on that node, or let Ray's user write there, as on the others: {name}"
            findings.append(Finding("storage", node, "fail", "cannot write", todo, answer["error"]))
            continue
        seen = read.get(node, "no answer")
        if isinstance(seen, str):
            todo = f"see that Ray's user may read there: {name}"
            findings.append(Finding("storage", node, "fail", "cannot read", todo, seen))
            continue
        unseen = [writer for writer in writers if seen.get(writer) != writer]
        if unseen:
            todo = f"it is not one place but one on each node; mount a shared one (NFS, S3) on all of them: {name}"
            findings.append(Finding("storage", node, "fail", f"not shared with {listed(unseen)}", todo))
        else:
            findings.append(_free(node, answer["free"], name))
    return findings


def _free(node: str, free: float | None, place: str) -> Finding:
    if free is None:
        return Finding("storage", node, "ok", "shared")
    if free < _FREE:
        return Finding("storage", node, "warn", f"shared, {size(free)} free", f"checkpoints need room: {place}")
    return Finding("storage", node, "ok", f"shared, {size(free)} free")
