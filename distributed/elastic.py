"""What makes elastic runs change their size cheaply: a checkpoint before they grow, a fresh look before they shrink."""

import socket
import time
from pathlib import Path
from typing import Any

# Both are told to nobody else: what state the controller is in, and what it takes the cluster to have.
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train.v2._internal.execution.callback import ControllerCallback

from distributed.say import say
from distributed.signals import SAVE, ask, is_asked, withdraw
from distributed.storage import Mirror
from models.errors import UserError

PATIENCE_S = 120.0
"""How long a step and a checkpoint may take; after that the run starts anew from its last one."""
NOTICE_S = 1.5
"""A node does not die all at once, and Ray's answer to what there is may be a second old."""
GIVING_UP_S = 30.0
"""How long the cluster may take to notice that a node is dead."""


class Elastic(ControllerCallback):
    """Runs in Ray Train's controller."""

    def __init__(self, run: Path, mirror: Mirror | None, look_every_s: float) -> None:
        self._run, self._mirror, self._look_every_s = run, mirror, look_every_s
        self._looked = 0.0

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        name = type(current_state).__name__
        if name == "ResizingState":  # of a group that works; others have nothing to save
            self._save(current_state.scaling_decision.num_workers)
        elif name == "RestartingState":
            wait_for_the_dead()
            look(wait=True)
        elif name == "RunningState" and time.monotonic() - self._looked > self._look_every_s:
            self._looked = time.monotonic()
            look(wait=False)

    def _save(self, workers: int) -> None:
        say(f"room for {workers} workers: saving a checkpoint, then going on with them")
        end = time.monotonic() + PATIENCE_S
        try:
            ask(self._run, self._mirror, SAVE)
            while is_asked(self._run, self._mirror, SAVE) and time.monotonic() < end:
                time.sleep(0.2 if self._mirror is None else 1.0)
            withdraw(self._run, self._mirror, SAVE)
        except (OSError, UserError) as error:
            say(f"warning: {error}; the run goes on from its last checkpoint")


def look(wait: bool) -> None:
    """Has Ray look which nodes there are now. By itself it does so every 20 s, and would plan workers on one that has
    just died, or not see one that has come."""
    import ray

    seen = get_or_create_autoscaling_coordinator().get_reserved_resources.remote("", recompute=True)
    if wait:
        ray.wait([seen], timeout=10)


def wait_for_the_dead() -> None:
    """Waits until every node that the cluster counts on answers: a worker's end is noticed sooner than its node's."""
    import ray

    end = time.monotonic() + GIVING_UP_S
    time.sleep(NOTICE_S)
    while time.monotonic() < end:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if all(answers(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in nodes):
            return
        time.sleep(0.5)


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True
