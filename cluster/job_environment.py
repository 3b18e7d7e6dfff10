"""Which variables of this process's environment a job gets, and which of them nobody else may see."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.command import UserError

PASSED_BY_DEFAULT = (
    "MELTMATCH_DATA",
    "WANDB_MODE",
    "WANDB_BASE_URL",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
    "HF_HUB_OFFLINE",
)
WANDB_KEY = "WANDB_API_KEY"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Environment:
    """The variables of a job by name."""

    plain: Mapping[str, str] = field(default_factory=dict)
    """These go into Ray's runtime environment, which the dashboard and `ray job list` show."""
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    """These go into a file of the package."""


def gather(requests: Sequence[str], wandb_key: bool, environ: Mapping[str, str]) -> Environment:
    """The variables that `--env NAME` and `--env NAME=VALUE` ask for, and those that are passed whenever they are set.

    Raises:
        UserError: a variable is not set, no name, or a secret whose value stands on the command line.
    """
    names = [*PASSED_BY_DEFAULT, *([WANDB_KEY] if wandb_key else [])]
    values = {name: environ[name] for name in names if environ.get(name)}
    for request in requests:
        name, given, value = request.partition("=")
        if not _NAME.fullmatch(name):
            raise UserError(f"--env: expected NAME or NAME=VALUE; found {name!r}, which is no name of a variable")
        if not given:
            if name not in environ:
                raise UserError(f"--env {name}: it is not set here; set it first, or leave this option out")
            value = environ[name]
        elif is_secret(name, value):
            raise UserError(
                f"--env {name}=...: a secret on the command line stays in the shell's history, where others can "
                f"read it; set {name} in the environment and write --env {name}"
            )
        values[name] = value
    secret = {name for name, value in values.items() if is_secret(name, value)}
    return Environment(
        {name: value for name, value in values.items() if name not in secret},
        {name: value for name, value in values.items() if name in secret},
    )


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is one that nobody else may see: by its name, or for a password in an address."""
    return bool(_SECRET_NAME.search(name) or _URL_WITH_PASSWORD.search(value))
