"""Shows findings: a table of checks x nodes, then what to do about each that is not well."""

import os
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.findings import CLUSTER, Finding, State, listed

_COLUMNS = 5  # nodes beside each other: more could not be read
_STYLES: Mapping[State, str] = {"ok": "green", "none": "dim", "warn": "yellow", "fail": "bold red"}
_WORDS: Mapping[State, str] = {"ok": "", "none": "", "warn": "warning: ", "fail": "FAILED: "}


def show(title: str, nodes: Sequence[str], findings: Sequence[Finding]) -> None:
    """Prints it all. Where nobody looks at a terminal, lines are as wide as COLUMNS says, else 120."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or 120)
    console = Console(width=width, highlight=False)
    cells: dict[str, dict[str, list[Finding]]] = {}
    for finding in findings:
        if finding.node != CLUSTER:
            cells.setdefault(finding.check, {}).setdefault(finding.node, []).append(finding)
    console.print(Text(title, style="bold"), soft_wrap=True)
    for begin in range(0, len(nodes), _COLUMNS):
        console.print(_table(nodes[begin : begin + _COLUMNS], cells))
    for finding in findings:
        if finding.node == CLUSTER and not finding.todo:  # those with something to do follow
            console.print(_text(finding, f"{finding.check}: {finding.found}"), soft_wrap=True)
    for text in _troubles(findings):
        console.print(text, soft_wrap=True)
    console.print(summary(findings), soft_wrap=True)


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    failed = sorted({finding.check for finding in findings if finding.state == "fail"})
    warned = sorted({finding.check for finding in findings if finding.state == "warn"})
    if not failed:
        return "all is well" + (f", but see the warnings ({', '.join(warned)})" if warned else "")
    return f"{len(failed)} check{'s' * (len(failed) > 1)} failed: {', '.join(failed)}"


def _table(nodes: Sequence[str], cells: Mapping[str, Mapping[str, Sequence[Finding]]]) -> Table:
    table = Table()
    table.add_column("check", no_wrap=True)
    for node in nodes:
        table.add_column(Text(node), overflow="fold")
    for check, by_node in cells.items():
        row = [Text("\n").join(_text(finding, finding.found) for finding in by_node.get(node, ())) for node in nodes]
        table.add_row(Text(check), *row)
    return table


def _text(finding: Finding, found: str) -> Text:
    # Text, never markup: what nodes say may hold brackets.
    return Text(_WORDS[finding.state] + found, style=_STYLES[finding.state])


def _troubles(findings: Sequence[Finding]) -> list[Text]:
    """What is wrong and what to do, failures first; nodes where it is the same share an entry."""
    nodes: dict[Finding, list[str]] = {}
    for finding in sorted(findings, key=lambda finding: finding.state != "fail"):
        if finding.todo:
            nodes.setdefault(finding._replace(node=CLUSTER), []).append(finding.node)
    texts = []
    for finding, names in nodes.items():
        where = "" if names == [CLUSTER] else f" on {listed(names)}"
        told = f"{finding.check}{where}: {finding.found}" + (f" ({finding.detail})" if finding.detail else "")
        texts.append(Text.assemble(_text(finding, told), f"\n  -> {finding.todo}"))
    return texts
