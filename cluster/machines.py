"""A provider of machines for Ray's autoscaler whose machines are processes on this one: `ray start`, and its end.

The autoscaler runs it in the head's monitor, as it would run the one of a cloud.
"""

import json
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from cluster import processes
from cluster.fake_cloud import HEAD, HEAD_ID, node_environment


class Machines(NodeProvider):
    """`provider_config` has what every node is started with: `mark`, `folder`, and `options` of `ray start`."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._tags = {HEAD_ID: _tags(HEAD_ID, HEAD, NODE_KIND_HEAD)}
        self._pids: dict[str, int] = {}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        for node, pid in list(self._pids.items()):
            if not processes.family(pid):  # it was killed
                self._forget(node)
        return [node for node, tags in self._tags.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        return dict(self._tags[node_id])

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._tags[node_id] |= tags

    def external_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    def internal_ip(self, node_id: str) -> str:
        return node_id  # all have the same address; the autoscaler only needs to tell them apart

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        for _ in range(count):
            node = f"machine-{len(list(Path(self.provider_config['folder']).glob('machine-*.log'))) + 1}"
            kind = tags[TAG_RAY_USER_NODE_TYPE]
            self._tags[node] = _tags(node, kind, NODE_KIND_WORKER) | tags
            self._pids[node] = self._start(node, kind, dict(resources), labels)

    def _start(self, node: str, kind: str, resources: dict[str, float], labels: dict[str, str]) -> int:
        folder = Path(self.provider_config["folder"])
        options = [*self.provider_config["options"], "--node-name", node, "--temp-dir", folder / node]
        options += ["--num-cpus", int(resources.pop("CPU", 0)), "--num-gpus", int(resources.pop("GPU", 0))]
        options += ["--resources", json.dumps(resources)]
        environment = {**self.provider_config["environment"], **node_environment(node, kind)}
        environment["RAY_OVERRIDE_LABELS"] = json.dumps(labels)
        return processes.start(["start", *options], self.provider_config["mark"], folder / f"{node}.log", environment)

    def terminate_node(self, node_id: str) -> None:
        if node_id in self._pids:
            processes.end(processes.family(self._pids[node_id]))
            self._forget(node_id)

    def _forget(self, node: str) -> None:
        del self._pids[node], self._tags[node]

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config


def _tags(node: str, kind: str, role: str) -> dict[str, str]:
    return {
        TAG_RAY_NODE_KIND: role,
        TAG_RAY_USER_NODE_TYPE: kind,
        TAG_RAY_NODE_NAME: node,
        TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
    }
