"""Before an elastic run takes more workers it writes a checkpoint, so that the change costs no work."""

import time
from pathlib import Path
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback  # its state is told to nobody else

from distributed.signals import SAVE

PATIENCE_S = 120.0
"""How long a step and a checkpoint may take; after that the run starts anew from its last one."""


class SaveBeforeResizing(ControllerCallback):
    """Runs in Ray Train's controller."""

    def __init__(self, run: str) -> None:
        self._run = run

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if type(current_state).__name__ != "ResizingState":  # of a group that works; others have nothing to save
            return
        decision = current_state.scaling_decision
        print(f"room for {decision.num_workers} workers: saving a checkpoint, then going on with them", flush=True)
        asked, end = Path(self._run) / SAVE, time.monotonic() + PATIENCE_S
        asked.touch()
        while asked.exists() and time.monotonic() < end:
            time.sleep(0.2)
        asked.unlink(missing_ok=True)
