"""Who shares a host, and what its links carry: what plans are made for."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import merak.backend
from merak import _C

if TYPE_CHECKING:
    from merak._torch_compat import ProcessGroup

NO_TIMEOUT = datetime.timedelta(0)
"""What stands for the group's own timeout."""

USUAL_BANDWIDTH = 119.6e6
"""Bytes per second of payload over 1 Gbit/s Ethernet."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """The ranks of a group and their hosts. All ranks must use the same.

    A host has one link to the others, full duplex; ranks of one host reach each other by memory. `usual`, `of_group`
    and `uniform` make one; `dataclasses.replace` changes it.
    """

    host_of: tuple[int, ...]
    """By rank: its host, an index into `hosts`."""
    hosts: tuple[tuple[float, float, float], ...]
    """By host, bytes per second: of its link out, of its link in, of each of its ranks' paths to its neighbours."""
    latency_s: float = 60e-6
    """From the start of a message to its arrival, when it has no bytes."""
    latency_inside_s: float = 30e-6
    """The same inside a host."""
    per_message_s: float = 15e-6
    """What a message costs its sender, and its receiver."""
    reduce_seconds_per_byte: float = 2.5e-10
    """Adding up."""

    def __post_init__(self) -> None:
        self.network()  # which checks it

    @classmethod
    def usual(cls, host_of: Sequence[int]) -> Topology:
        """Hosts told apart by any numbers, of which `host_of[rank]` is the rank's, on 1 Gbit/s Ethernet."""
        return cls._of_network(_C.usual_network(list(host_of)))

    @classmethod
    def uniform(cls, hosts: int, ranks_per_host: int, bandwidth: float = USUAL_BANDWIDTH) -> Topology:
        """Equal hosts, ranks numbered host by host.

        Args:
            bandwidth: bytes per second of each link, in each direction.
        """
        usual = cls.usual([rank // ranks_per_host for rank in range(hosts * ranks_per_host)])
        return dataclasses.replace(usual, hosts=tuple((bandwidth, bandwidth, host[2]) for host in usual.hosts))

    @classmethod
    def of_group(cls, group: ProcessGroup | None = None, timeout: datetime.timedelta | None = None) -> Topology:
        """That of a group of merak's: who shares a host, and the usual numbers, or those that `calibrate` has measured.
        The first time, it waits for all ranks to have made the group."""
        return cls._of_network(merak.backend.of_group(group).network(timeout or NO_TIMEOUT))

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Topology:
        """What `to_json` has given.

        Raises:
            ValueError: it is something else.
        """
        try:
            hosts = tuple((float(out), float(into), float(inside)) for out, into, inside in facts["hosts"])
            costs = {name: float(facts[name]) for name in _COSTS if name in facts}
            return cls(tuple(int(host) for host in facts["host_of"]), hosts, **costs)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"no topology: {error!r}; it has host_of and hosts, [[out, in, inside], ...] in bytes/s"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Lists, numbers and texts."""
        return dataclasses.asdict(self)

    def network(self) -> _C.Network:
        """For C++.

        Raises:
            ValueError: a rank has no host, or a number makes no sense.
        """
        costs = {name: getattr(self, name) for name in _COSTS}
        return _C.Network(list(self.host_of), list(self.hosts), **costs)

    @classmethod
    def _of_network(cls, network: _C.Network) -> Topology:
        costs = {name: getattr(network, name) for name in _COSTS}
        return cls(tuple(network.host_of), tuple(network.hosts), **costs)


_COSTS = ("latency_s", "latency_inside_s", "per_message_s", "reduce_seconds_per_byte")


def calibrate(group: ProcessGroup | None = None, timeout: datetime.timedelta | None = None) -> Topology:
    """Measures what the links of a group carry, unless that was done: plans that are made from then on reckon with it,
    instead of 1 Gbit/s. Called by all ranks; takes the time of 4 MiB on the slowest link, and of some 30 messages."""
    merak.backend.of_group(group).measure(timeout or NO_TIMEOUT)
    return Topology.of_group(group, timeout)
