"""The nodes that a run's workers are on, and which of them are about to be taken away."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from distributed.collectives import everyone


@dataclass(frozen=True)
class Nodes:
    """Of all workers of a group."""

    own: str
    """This worker's node, as people know it."""
    ranks: Mapping[str, list[int]]
    """By Ray's id of a node."""

    @classmethod
    def gather(cls) -> "Nodes":
        """Asks all workers. Collective."""
        import ray

        here = ray.get_runtime_context().get_node_id()
        ranks: dict[str, list[int]] = {}
        for rank, node in enumerate(everyone(here)):
            ranks.setdefault(node, []).append(rank)
        return cls(here[:8], ranks)

    def leaving(self) -> list[str]:
        """A line for each of these nodes that the cluster has been told it will lose (a spot instance's warning)."""
        from ray._private.state import state  # there is no public way to learn of it

        lines = []
        for node, deadline_ms in state.get_draining_nodes().items():
            if node in self.ranks:
                when = time.strftime("at %H:%M:%S", time.localtime(deadline_ms / 1000)) if deadline_ms else "soon"
                ranks = ", ".join(map(str, self.ranks[node]))
                lines.append(f"node {node[:8]} (rank {ranks}) will be taken away {when}")
        return lines
