"""Puts a probe on every node of a Ray cluster and asks them all at once, with a time limit for those that hang."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.probe import Probe


@dataclass(frozen=True)
class Node:
    """A node that is up, as far as the head knows."""

    name: str
    """As people see it; no two nodes have the same."""
    id: str
    address: str
    head: bool
    resources: Mapping[str, float] = field(repr=False)


def nodes_up() -> list[Node]:
    """The cluster's nodes, the head first."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = [node["NodeManagerHostname"] for node in alive]
    nodes = []
    for node, host in zip(alive, hosts, strict=True):
        head = "node:__internal_head__" in node["Resources"]
        # Nodes of one machine, as in tests, share its name.
        name = host if hosts.count(host) == 1 else f"{host}-{node['NodeID'][-4:]}"
        name = f"{name} (head)" if head else name
        nodes.append(Node(name, node["NodeID"], node["NodeManagerAddress"], head, node["Resources"]))
    return sorted(nodes, key=lambda node: (not node.head, node.name))


def start_probe(node: Node, name: str | None = None) -> Any:
    """A probe on that node, which takes nothing of what runs need; `name` is said to those that connect to it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = NodeAffinitySchedulingStrategy(node.id, soft=False)
    options = {"num_cpus": 0, "max_concurrency": 8, "max_restarts": 0, "scheduling_strategy": pinned}
    return ray.remote(Probe).options(**options).remote(name or node.name, node.address)


def ask(questions: Mapping[str, Any], limit_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Waits for the answers to all questions -> the answers, and for each other one why there is none."""
    import ray

    if not questions:
        return {}, {}
    ready, _ = ray.wait(list(questions.values()), num_returns=len(questions), timeout=limit_s)
    answers, faults = {}, {}
    for name, question in questions.items():
        if question not in ready:
            faults[name] = f"nothing within {limit_s:g} s"
            continue
        try:
            answers[name] = ray.get(question)
        except Exception as error:  # Ray's own, and whatever the node raised
            faults[name] = " ".join(str(error).strip().splitlines()[-1:])[:200] or type(error).__name__
    return answers, faults


def ask_all(questions: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Likewise where answers are dicts with an `error`: one that does not come has its reason there."""
    answers, faults = ask(questions, limit_s)
    return {name: answers[name] if name in answers else {"error": faults[name]} for name in questions}


def ask_together(questions: Mapping[str, Any], limit_s: float, grace_s: float) -> dict[str, Any]:
    """Likewise where nodes wait for each other: once one has failed, the others get only `grace_s` more."""
    import ray

    waiting, answers = dict(questions), dict[str, Any]()
    end = time.monotonic() + limit_s
    while waiting and (left := end - time.monotonic()) > 0:
        ready, _ = ray.wait(list(waiting.values()), timeout=left)
        come = ask_all({name: question for name, question in waiting.items() if question in ready}, limit_s)
        waiting = {name: question for name, question in waiting.items() if name not in come}
        answers |= come
        if any(answer["error"] for answer in come.values()):
            end = min(end, time.monotonic() + grace_s)
    failed = any(answer["error"] for answer in answers.values())
    why = "it still waited when the others had given up" if failed else f"nothing within {limit_s:g} s"
    return {name: answers.get(name, {"error": why}) for name in questions}


def stop(probes: Iterable[Any]) -> None:
    """Ends the probes, also those that hang."""
    import ray

    for probe in probes:
        ray.kill(probe)
