"""A cluster, measured where it is.

All ranks call `calibrate`. Who shares a host, the backend knows. Then are measured, in this order: each rank's device,
all at the same time; the links inside each host, by all of its ranks, hosts at the same time; the links between hosts,
by the first rank of each. Every rank tells all others what it has found, and all make the same cluster of it.

Hosts that follow each other become one group, if they have as many devices, and none of their speeds (of products, by
dtype, and of memory) differs by more than 15 %. What a group says is the median over its devices, and over its hosts'
links; of memory, the least.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch
import torch.distributed as dist

import merak.backend
from merak.backend.texts import gather_json
from merak.planner.cluster import Cluster, Group
from merak.planner.collective_speed import measure_link
from merak.planner.device import Device
from merak.planner.device_speed import measure_device
from merak.planner.link import Link

ALIKE = 1.15
"""How many times as fast as another a host's devices may be, in one group."""
_DEFAULT_TIMEOUT = datetime.timedelta(0)  # the group's own


class Host(NamedTuple):
    """What was measured of a host: its devices, and the link between them if there are several."""

    devices: tuple[Device, ...]
    inside: Link | None


def calibrate(
    device: torch.device | str = "cpu",
    *,
    rounds: int = 9,
    largest_bytes: int = 128 << 20,
    name: str = "calibrated",
    progress: Callable[[str], None] | None = None,
) -> Cluster:
    """Measures the cluster that the default process group, of backend "merak", runs on. Collective; the same on all
    ranks. Its devices are numbered as the ranks are.

    Args:
        device: this rank's. On "cpu" messages go over merak's own TCP, on "cuda" over NCCL.
        rounds: how often each thing is measured; the median counts.
        largest_bytes: of a message.
        name: of the cluster.
        progress: is told on rank 0 what is being measured.
    Raises:
        ValueError: the default group is not merak's, or the ranks of a host do not follow each other.
    """
    device = torch.device(device)
    rank, host_of = dist.get_rank(), merak.backend.of_group(None).network(_DEFAULT_TIMEOUT).host_of
    hosts = _ranks_of_hosts(host_of)
    say = progress if progress and rank == 0 else lambda text: None
    say(f"devices of {len(host_of)} ranks on {len(hosts)} hosts")
    dist.barrier()
    found = measure_device(device, host_of.count(host_of[rank]), rounds)
    inside = between = None
    if any(len(ranks) > 1 for ranks in hosts):
        say("links inside hosts")
        inside = _measure_among([ranks for ranks in hosts if len(ranks) > 1], device, rounds, largest_bytes)
    if len(hosts) > 1:
        say("links between hosts")
        between = _measure_among([[ranks[0] for ranks in hosts]], device, rounds, largest_bytes)
    facts = [found.to_json(), inside and inside.to_json(), between and between.to_json()]
    everyones = gather_json(facts, torch.device("cpu"))
    links = [tuple(link and Link.from_json(link) for link in facts[1:]) for facts in everyones]
    devices = [Device.from_json(facts[0]) for facts in everyones]
    measured = [Host(tuple(devices[one] for one in ranks), links[ranks[0]][0]) for ranks in hosts]
    return assemble(name, measured, links[0][1])


def assemble(name: str, hosts: Sequence[Host], between: Link | None) -> Cluster:
    """The cluster of hosts that were measured.

    Args:
        between: the link between hosts, if there are several.
    """
    groups: list[list[Host]] = []
    for host in hosts:
        if groups and _alike(groups[-1][0], host):
            groups[-1].append(host)
        else:
            groups.append([host])
    # A link that nothing crosses may be any.
    any_link = between or next((host.inside for host in hosts if host.inside), None) or Link.of("loopback")
    return Cluster(name, tuple(_group(alike, any_link) for alike in groups), between or any_link)


def _group(hosts: Sequence[Host], any_link: Link) -> Group:
    device = _median_device([device for host in hosts for device in host.devices])
    inside = [host.inside for host in hosts if host.inside]
    return Group(device, len(hosts), len(hosts[0].devices), _median_link(inside) if inside else any_link)


def _alike(one: Host, other: Host) -> bool:
    if len(one.devices) != len(other.devices):
        return False
    left, right = _median_device(one.devices), _median_device(other.devices)
    if left.name != right.name or left.flops.keys() != right.flops.keys():
        return False
    speeds = [(left.flops[dtype], right.flops[dtype]) for dtype in left.flops]
    speeds.append((left.memory_bytes_per_s, right.memory_bytes_per_s))
    return all(max(pair) <= ALIKE * min(pair) for pair in speeds)


def _median_device(devices: Sequence[Device]) -> Device:
    dtypes = [dtype for dtype in devices[0].flops if all(dtype in device.flops for device in devices)]
    return replace(
        devices[0],
        flops={dtype: statistics.median(device.flops[dtype] for device in devices) for dtype in dtypes},
        memory_bytes=min(device.memory_bytes for device in devices),
        memory_bytes_per_s=statistics.median(device.memory_bytes_per_s for device in devices),
        overhead_s=statistics.median(device.overhead_s for device in devices),
    )


def _median_link(links: Sequence[Link]) -> Link:
    collectives = {
        kind: (
            statistics.median(link.collectives[kind][0] for link in links),
            statistics.median(link.collectives[kind][1] for link in links),
        )
        for kind in links[0].collectives
    }
    return Link(
        statistics.median(link.bytes_per_s for link in links),
        statistics.median(link.latency_s for link in links),
        collectives,
    )


def _ranks_of_hosts(host_of: Sequence[int]) -> list[list[int]]:
    hosts = [list(ranks) for _, ranks in groupby(range(len(host_of)), key=host_of.__getitem__)]
    if len(hosts) != len(set(host_of)):
        raise ValueError(
            f"the ranks have hosts {list(host_of)}, and those of one host must follow each other: number the ranks "
            "host by host, as torchrun does"
        )
    return hosts


def _measure_among(groups: Sequence[Sequence[int]], device: torch.device, rounds: int, largest: int) -> Link | None:
    """The link among the ranks of each group, all groups at the same time; None on ranks of no group. Collective."""
    mine, link = None, None
    for ranks in groups:
        group = dist.new_group(list(ranks))
        if isinstance(group, dist.ProcessGroup):  # and not what stands for a group of others
            mine = group
    if mine is not None:
        link = measure_link(mine, device, rounds, largest)
        dist.destroy_process_group(mine)
    dist.barrier()
    return link
