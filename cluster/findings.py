"""What the doctor finds out about a cluster, and the limits that its checks share."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

State = Literal["ok", "none", "warn", "fail"]
"""`none`: there is nothing to check, or it was not checked; `warn`: runs work, but worse than they could."""

Facts = Mapping[str, Any]
"""What one node answered: plain values, as `cluster/probe.py` and its neighbours return them."""

By = Mapping[str, Facts]
"""Answers by node."""

CLUSTER = ""
"""Stands for the node in a finding that is about the whole cluster."""

GIB = 2**30
MIB = 2**20


class Finding(NamedTuple):
    """One cell of the table: what a check found on a node."""

    check: str
    node: str
    state: State
    found: str
    """A few words."""
    todo: str = ""
    """What to do about it, where something is to be done."""
    detail: str = ""
    """More of what was found, where a few words do not do."""


def failed(findings: Sequence[Finding]) -> bool:
    return any(finding.state == "fail" for finding in findings)


def size(number: float) -> str:
    """Bytes as people read them."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / MIB:.0f} MiB"


def listed(names: Sequence[str]) -> str:
    """Names one after the other, the later ones counted only where there are many."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
