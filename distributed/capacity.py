"""Whether a cluster can ever hold a run: told at once, where Ray would wait for ever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from distributed.config import Recipe
from models.errors import UserError


@dataclass(frozen=True)
class Capacity:
    """What a cluster has to run workers on."""

    nodes: Sequence[Mapping[str, float]]
    """The resources of each node."""
    grows: bool = False
    """Whether an autoscaler starts more nodes when they are asked for: which, it does not say."""

    @classmethod
    def of_cluster(cls) -> "Capacity":
        """That of the cluster that this process has joined."""
        import ray
        from ray._private import worker
        from ray.core.generated import autoscaler_pb2

        status = cast(Any, autoscaler_pb2).GetClusterStatusReply()
        status.ParseFromString(cast(Any, worker.global_worker).gcs_client.get_cluster_status())
        of_a_type = any(node.ray_node_type_name for node in status.cluster_resource_state.node_states)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return cls(nodes, status.HasField("autoscaling_state") or of_a_type)

    def total(self, name: str) -> float:
        """Of a resource, over all nodes."""
        return sum(node.get(name, 0.0) for node in self.nodes)

    def worker(self, recipe: Recipe) -> dict[str, float]:
        """What Ray reserves for one worker of a run.

        Raises:
            UserError: it depends on nodes that are not there yet.
        """
        gpus = recipe.scaling.gpus_per_worker
        if gpus is None:
            gpus = float(self.total("GPU") >= _least(recipe)[1])
            if self.grows and not gpus:
                raise UserError(
                    "scaling.gpus_per_worker: this cluster starts nodes when they are asked for, and so it cannot be "
                    "seen whether they have GPUs; set it to 1, or to 0 for nodes without"
                )
        return {"CPU": recipe.scaling.cpus_per_worker} | ({"GPU": gpus} if gpus else {})

    def holds(self, resources: Mapping[str, float]) -> int:
        """How many workers of so much there is room for when nothing else runs; a worker is on one node."""
        each = [
            min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in resources.items()) for node in self.nodes
        ]
        return sum(each)

    def check(self, recipe: Recipe) -> None:
        """Raises UserError where the cluster can never hold a run's workers."""
        resources, (key, workers) = self.worker(recipe), _least(recipe)
        fitting = self.holds(resources)
        taken = " and ".join(f"{amount:g} {name}s" for name, amount in resources.items())
        if self.grows:
            if fitting < workers:
                print(f"{fitting} of {workers} workers have room; waiting for nodes with {taken} each", flush=True)
            return
        for name, each in resources.items():
            if workers * each > self.total(name) + 1e-6:
                raise UserError(
                    f"scaling asks for {workers * each:g} {name}s ({workers} workers), but this cluster has "
                    f"{self.total(name):g}; lower {key} or scaling.{name.lower()}s_per_worker"
                )
        readers = recipe.scaling.readers_per_worker
        if workers * (resources["CPU"] + readers) > self.total("CPU") + 1e-6:
            raise UserError(
                f"scaling.readers_per_worker={readers} takes {workers * readers} CPUs beside those of the workers, but "
                f"this cluster has {self.total('CPU'):g}; lower it (0: the worker reads in a thread of its own)"
            )
        if fitting < workers:
            raise UserError(
                f"{key}={workers} with {taken} each: the {len(self.nodes)} nodes of this cluster hold {fitting} such "
                f"workers, for a worker cannot be spread over nodes; lower {key} or what each takes"
            )

    def __str__(self) -> str:
        gpus = self.total("GPU")
        return f"{self.total('CPU'):g} CPU cores" + (f" and {gpus:g} GPUs" if gpus else "")


def _least(recipe: Recipe) -> tuple[str, int]:
    """The key that says how many workers a run needs to begin, and how many those are."""
    if recipe.scaling.min_workers is None:
        return "scaling.workers", recipe.scaling.workers
    return "scaling.min_workers", recipe.scaling.min_workers
