"""What Ray has reserved for a run's workers: should the process that reserved it die, the next start frees it.

Ray does so by itself where its dashboard can be reached, in its own time.
"""

from contextlib import suppress
from pathlib import Path

RESERVED = "placement_group"
"""The file in a run's folder that names the reservation."""


def note_reservation(run: Path) -> None:
    """Writes down what this worker's group has reserved."""
    import ray.util

    reserved = ray.util.get_current_placement_group()
    if reserved is not None:
        with suppress(OSError):  # a full disk, of which the log will tell
            (run / RESERVED).write_text(reserved.id.hex(), encoding="utf-8")


def free_reservation(run: Path) -> None:
    """Gives back what an attempt has reserved that nobody works with any more."""
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    file = run / RESERVED
    if not file.exists():
        return
    try:
        group = PlacementGroup(ray.PlacementGroupID.from_hex(file.read_text(encoding="utf-8")))
    except ValueError:  # cut short by a kill
        return
    if placement_group_table(group).get("state") in ("CREATED", "PENDING", "RESCHEDULING"):
        remove_placement_group(group)
