"""Ray's own autoscaler on one machine: the nodes that it starts and ends are processes here.

The autoscaler, its scheduler and its idle timeout are the real ones; only the cloud is not (`machines.py`).
"""

import re
from dataclasses import dataclass
from typing import Any

from cluster.command import UserError

HEAD_ID, HEAD = "head", "head"
WORKER = "worker"


@dataclass(frozen=True)
class Cloud:
    """From how many to how many nodes there are beside the head, and what each has."""

    least: int
    most: int
    cpus: int
    gpus: int
    idle_s: float

    @classmethod
    def parse(cls, text: str, cpus: int, gpus: int, idle_s: float) -> "Cloud":
        """From `MIN..MAX`."""
        found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
        if not found or not int(found[1]) <= int(found[2]) or int(found[2]) < 1:
            raise UserError(f"--autoscale {text!r}: expected MIN..MAX nodes, such as 0..3")
        return cls(int(found[1]), int(found[2]), cpus, gpus, idle_s)

    def config(self, machines: dict[str, Any]) -> dict[str, Any]:
        """What `ray start --autoscaling-config` reads, as `ray up` has it. `machines`: for `cluster.machines`."""
        worker = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        return {
            "cluster_name": "meltmatch-local",
            "max_workers": self.most,
            "idle_timeout_minutes": self.idle_s / 60,
            "upscaling_speed": 1.0,
            "provider": {
                "type": "external",
                "module": "cluster.machines.Machines",
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                **machines,
            },
            "auth": {},
            "head_node_type": HEAD,
            "available_node_types": {
                HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                WORKER: {
                    "resources": worker,
                    "node_config": {},
                    "min_workers": self.least,
                    "max_workers": self.most,
                },
            },
            "head_node": {},
            "worker_nodes": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }


def node_environment(instance: str, kind: str) -> dict[str, str]:
    """What tells the autoscaler which of its machines a node is."""
    return {"RAY_CLOUD_INSTANCE_ID": instance, "RAY_NODE_TYPE_NAME": kind}
