"""Machines with networks of their own on this one: network namespaces on a bridge whose cables can be pulled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SUBNET = "10.77.0"


def ip(*arguments: object, check: bool = True) -> None:
    subprocess.run(["ip", *map(str, arguments)], check=check, capture_output=True)


class Network:
    """`count` machines, which have the addresses 10.77.0.1, 10.77.0.2, ..."""

    def __init__(self, count: int, tag: str) -> None:
        self.tag, self.count = tag, count

    def space(self, number: int) -> str:
        return f"{self.tag}-{number}"

    def address(self, number: int) -> str:
        return f"{SUBNET}.{number}"

    def inside(self, number: int) -> list[str]:
        """What goes before a command so that it runs on a machine."""
        return ["ip", "netns", "exec", self.space(number)]

    def pull(self, number: int) -> None:
        """Pulls the cable of a machine: no packet gets through, and nobody is told."""
        ip("link", "set", f"{self.tag}v{number}", "nomaster")

    def plug(self, number: int) -> None:
        """Puts it back."""
        ip("link", "set", f"{self.tag}v{number}", "master", self._bridge)

    @property
    def _bridge(self) -> str:
        return f"{self.tag}br"

    def build(self) -> None:
        # The bridge is in a namespace of its own in all but name: nothing else here has an address in this subnet.
        ip("link", "add", self._bridge, "type", "bridge")
        ip("link", "set", self._bridge, "up")
        for number in range(1, self.count + 1):
            space, outer = self.space(number), f"{self.tag}v{number}"
            ip("netns", "add", space)
            ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", outer, "master", self._bridge)
            ip("link", "set", outer, "up")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for number in range(1, self.count + 1):
            ip("netns", "del", self.space(number), check=False)
            ip("link", "del", f"{self.tag}v{number}", check=False)
        ip("link", "del", self._bridge, check=False)


@contextmanager
def network(count: int, tag: str) -> Iterator[Network]:
    """Skips the test where this user may not make networks."""
    built = Network(count, tag)
    if os.geteuid() != 0:
        pytest.skip("needs to make network namespaces, which takes root")
    try:
        built.build()
    except (OSError, subprocess.CalledProcessError):
        built.remove()
        pytest.skip("needs to make network namespaces, which this machine does not let")
    try:
        yield built
    finally:
        built.remove()
