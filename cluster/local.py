"""A Ray cluster of several nodes on this machine, to rehearse on what a real one does.

    python -m cluster.local start [--nodes 2] [--cpus 1] [--autoscale 0..3] [--name local]
    python -m cluster.local status | add | kill NODE | drain NODE | stop

Every node is a `ray start` of its own, with resources of its own; `kill` takes one away as a power cut would, `drain`
warns the runs on it first, as a cloud does before it takes a spot instance back. `stop` ends what `start` and `add`
have started, and nothing else: several clusters may run side by side under different names.
"""

import argparse
import json
import re
from collections.abc import Sequence

from cluster.command import UserError, main_of
from cluster.fake_cloud import Cloud
from cluster.local_cluster import LocalCluster, add, drain, kill, start, stop


def _resources(options: argparse.Namespace) -> list[object]:
    if options.cpus < 0 or options.gpus < 0:
        raise UserError("--cpus and --gpus: expected 0 or more")
    more = {}
    for item in options.resource:
        key, _, amount = item.partition("=")
        if not key or not re.fullmatch(r"\d+(\.\d+)?", amount):
            raise UserError(f"--resource {item!r}: expected NAME=AMOUNT, such as disk=1")
        more[key] = float(amount)
    return [
        "--num-cpus",
        options.cpus,
        "--num-gpus",
        options.gpus,
        *(["--resources", json.dumps(more)] if more else []),
    ]


def _table(made: LocalCluster) -> str:
    lines = [f"{'node':10} {'state':7} resources"]
    for node in sorted(made.listed(), key=lambda node: str(node["node_name"])):
        wanted = ("CPU", "GPU")
        has = {key: value for key, value in (node.get("resources_total") or {}).items() if key in wanted}
        lines.append(f"{node['node_name']:10} {node['state']:7} {has or ''}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description="A Ray cluster on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--name", default="local", help="which cluster; several may run side by side")
    of_a_node = argparse.ArgumentParser(add_help=False)
    of_a_node.add_argument("--cpus", type=int, default=1, help="CPUs of each node")
    of_a_node.add_argument("--gpus", type=int, default=0, help="GPUs of each node; Ray believes you")
    of_a_node.add_argument("--resource", action="append", default=[], metavar="NAME=AMOUNT")
    starting = commands.add_parser("start", parents=[every, of_a_node], help="start a head and its nodes")
    starting.add_argument(
        "--nodes", type=int, default=None, help="nodes beside the head (default 2; 0 with --autoscale)"
    )
    starting.add_argument("--head-cpus", type=int, default=0, help="CPUs of the head; with 0 no worker runs there")
    starting.add_argument("--autoscale", metavar="MIN..MAX", help="nodes come and go as they are needed")
    starting.add_argument("--idle", type=float, default=30.0, help="seconds after which an idle node goes")
    commands.add_parser("add", parents=[every, of_a_node], help="add a node")
    commands.add_parser("status", parents=[every], help="the nodes, and how to reach them")
    commands.add_parser("stop", parents=[every], help="end all that was started")
    killing = commands.add_parser("kill", parents=[every], help="take a node away without a warning")
    draining = commands.add_parser("drain", parents=[every], help="warn that a node will go, as for a spot instance")
    for one in (killing, draining):
        one.add_argument("node")
    draining.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args(arguments)
    if options.command == "start":
        cloud = Cloud.parse(options.autoscale, options.cpus, options.gpus, options.idle) if options.autoscale else None
        nodes = options.nodes if options.nodes is not None else (0 if cloud else 2)
        made = start(
            options.name, nodes, _resources(options), ["--num-cpus", options.head_cpus, "--num-gpus", 0], cloud
        )
        return _welcome(made)
    made = LocalCluster.load(options.name)
    if options.command == "status":
        return _welcome(made)
    if options.command == "add":
        print(f"added {add(made, _resources(options))}")
    elif options.command == "kill":
        kill(made, options.node)
    elif options.command == "drain":
        drain(made, options.node, options.seconds)
    else:
        stop(made)
        print(f"stopped local cluster {made.name!r}")
    return 0


def _welcome(made: LocalCluster) -> int:
    print(_table(made))
    exports = " ".join(f"{key}={value}" for key, value in made.environment().items())
    print(f"\nuse it:     export {exports}")
    print("submit:     python -m cluster.submit --wait -- python -m distributed.train demo")
    print(f"look at it: {made.dashboard}")
    print(f"end it:     python -m cluster.local stop --name {made.name}")
    return 0


if __name__ == "__main__":
    main_of(main)
