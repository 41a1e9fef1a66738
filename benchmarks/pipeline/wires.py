"""Wires between neighbours of a pipeline: one of its own for each two hosts, as the schedules' simulation has it.

On the test bed each host has one link to a switch, and what it sends to the stage before it and to the one behind it
shares that. These wires lead past the switch: a veth pair from each host to the next, and from the last to the first,
shaped at both ends, and routes by which hosts reach their neighbours' usual addresses over them.
"""

from __future__ import annotations

from benchmarks.testbed import Cluster
from benchmarks.testbed.shell import check
from benchmarks.testbed.topology import QUEUE_LATENCY, host_name

BURST = 72 * 1024
"""Bytes of a wire's token bucket, which leave unshaped after an idle time: little more than one offloaded packet. The
simulation reckons without them, and so expects messages that are some 1 ms later than they are."""


def lay_wires(cluster: Cluster, rate: int) -> None:
    """Builds them on a cluster that is entered; they go with it.

    Args:
        rate: bit/s in each direction.
    Raises:
        UnavailableError: this machine cannot.
    """
    hosts = cluster.topology.hosts
    for one, other in sorted({tuple(sorted((host, (host + 1) % hosts))) for host in range(hosts)}):
        if one != other:
            for command in _commands(cluster, one, other, rate):
                check(command)


def _commands(cluster: Cluster, one: int, other: int, rate: int) -> list[list[str]]:
    here, there = (host_name(cluster.prefix, host) for host in (one, other))
    wire, end = f"wire{other}", f"wire{one}"
    pair = ["link", "add", wire, "type", "veth", "peer", "name", end, "netns", there]
    address = cluster.topology.address
    return [
        ["ip", "-n", here, *pair],
        *_end_commands(here, wire, rate),
        *_end_commands(there, end, rate),
        ["ip", "-n", here, "route", "add", f"{address(other)}/32", "dev", wire, "src", address(one)],
        ["ip", "-n", there, "route", "add", f"{address(one)}/32", "dev", end, "src", address(other)],
    ]


def _end_commands(host: str, wire: str, rate: int) -> list[list[str]]:
    bucket = ["tbf", "rate", f"{rate}bit", "burst", f"{BURST}b", "latency", QUEUE_LATENCY]
    return [
        ["ip", "-n", host, "link", "set", wire, "addrgenmode", "none"],
        ["ip", "-n", host, "link", "set", wire, "up"],
        ["tc", "-n", host, "qdisc", "add", "dev", wire, "root", *bucket],
    ]
