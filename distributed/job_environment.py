"""Keys and passwords of a submitted job, which travel in its package because a job's environment can be read by all."""

import json
import os
from pathlib import Path

from models.errors import UserError

FILE = ".job_environment.json"
"""Beside the packages, on every node of the job. `cluster.submit` puts it into what it uploads."""


def load(folder: Path = Path(__file__).parents[1]) -> None:
    """Sets what the job's file holds, if there is one; a variable that is set already stays as it is.

    Every process that may need it calls this first: commands, and Ray's worker processes.

    Raises:
        UserError: the file is not one of `cluster.submit`.
    """
    path = folder / FILE
    if not path.exists():
        return
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None  # what it says is not for a message
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise UserError(f"{path}: expected a JSON object of names and texts; remove it, cluster.submit writes it anew")
    for name, value in values.items():
        os.environ.setdefault(name, value)
