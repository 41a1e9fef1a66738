"""A cluster: which devices there are, on which hosts, and what the links between them carry.

A *group* is hosts of one kind; an uneven cluster has several, such as 2 hosts of 8 A100 and 4 hosts of 4 RTX3090.
Devices are numbered group by group and host by host; so are hosts. Inside a host each device has a link of its own to
its neighbours. Each host has one link to the network, full duplex, which its devices share; the network behind it
carries what the hosts' links do.

A cluster is data: it can be written, compared, saved and loaded (cluster_file.py), typed in a line (`Cluster.uniform`)
or measured (calibration.py). What plans ask of it are sizes of memory, speeds of devices, and how long a collective
takes (collective_times.py has the formulas).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from merak.planner.checks import WrongFieldError, check_number, check_text, check_whole, within
from merak.planner.collective_times import LinearTime, linear_time
from merak.planner.device import Device
from merak.planner.link import COLLECTIVES, Link


@dataclass(frozen=True)
class Group:
    """Hosts of one kind.

    Attributes:
        device: what each of the devices is.
        hosts, devices_per_host: how many.
        inside: each device's link to the others of its host.
        memory_bytes: that a plan may use of a device; by default all.
    """

    device: Device
    hosts: int
    devices_per_host: int
    inside: Link
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, expected in (("hosts", "a number of hosts"), ("devices_per_host", "a number of devices")):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), expected))
        if self.memory_bytes is not None:
            object.__setattr__(self, "memory_bytes", check_whole("memory_bytes", self.memory_bytes, "bytes"))
            if self.memory_bytes > self.device.memory_bytes:
                raise WrongFieldError(
                    "memory_bytes",
                    f"is {self.memory_bytes}; expected at most what the device {self.device.name!r} has, "
                    f"{self.device.memory_bytes}",
                )

    @property
    def devices(self) -> int:
        """Of all its hosts."""
        return self.hosts * self.devices_per_host


@dataclass(frozen=True)
class Cluster:
    """Groups of hosts, and the network between all hosts.

    Attributes:
        name: for people.
        groups: one or more.
        between: a host's link to the network.
    """

    name: str
    groups: tuple[Group, ...]
    between: Link

    def __post_init__(self) -> None:
        check_text("name", self.name, "what it is called")
        object.__setattr__(self, "groups", tuple(self.groups))
        if not self.groups:
            raise WrongFieldError("groups", "is empty; expected one group of hosts at least")

    @classmethod
    def uniform(
        cls,
        device: Device | str,
        hosts: int,
        devices_per_host: int,
        *,
        inside: Link | str | None = None,
        between: Link | str | None = None,
        memory_bytes: int | None = None,
        name: str | None = None,
    ) -> Cluster:
        """A cluster of equal hosts.

        Args:
            device: one, or the name of a shipped one (`Device.names()`).
            inside, between: links, or texts such as "NVLink4", "PCIe4", "100Gbit/s", "1Gbit/s 90us" (link.py). Hosts of
                one device need no `inside`, a cluster of one host no `between`.
            memory_bytes: that a plan may use of a device; by default all.
        Raises:
            ValueError: an argument makes no sense, or a link is missing.
        """
        device = Device.named(device) if isinstance(device, str) else device
        for link, used, which in (
            (inside, devices_per_host != 1, "inside is missing: the link between devices of a host"),
            (between, hosts != 1, "between is missing: a host's link to the network"),
        ):
            if link is None and used:
                raise ValueError(f'{which}; expected a Link or a text such as "NVLink4" or "100Gbit/s"')
        # A link that nothing crosses may be any.
        link_inside, link_between = Link.of(inside or between or "loopback"), Link.of(between or inside or "loopback")
        group = Group(device, hosts, devices_per_host, link_inside, memory_bytes)
        return cls(name or f"{hosts} x {devices_per_host} {device.name}", (group,), link_between)

    @cached_property
    def devices(self) -> int:
        """How many there are."""
        return sum(group.devices for group in self.groups)

    @cached_property
    def hosts(self) -> int:
        """How many there are."""
        return sum(group.hosts for group in self.groups)

    @property
    def homogeneous(self) -> bool:
        """Whether all hosts are of one kind."""
        kinds = [(one.device, one.devices_per_host, one.inside, one.memory_bytes) for one in self.groups]
        return all(kind == kinds[0] for kind in kinds)

    def group_of(self, number: int) -> Group:
        """That of a device."""
        return self.groups[self._index(number)]

    def device(self, number: int) -> Device:
        """What a device is."""
        return self.group_of(number).device

    def memory_bytes(self, number: int) -> int:
        """What a plan may use of a device."""
        group = self.group_of(number)
        return group.device.memory_bytes if group.memory_bytes is None else group.memory_bytes

    def host_of(self, number: int) -> int:
        """The host that a device is in."""
        index = self._index(number)
        before = sum(group.hosts for group in self.groups[:index])
        first = self._ends[index] - self.groups[index].devices
        return before + (number - first) // self.groups[index].devices_per_host

    def linear_time(self, kind: str, ranks: Sequence[int], sharing: int = 1) -> LinearTime:
        """How long a collective over these devices takes, by its bytes; see `seconds`."""
        key = (kind, tuple(ranks), sharing)
        if key not in self._times:
            self._check_call(kind, ranks, sharing)
            hosts = [self.host_of(rank) for rank in ranks]
            inside = [self.group_of(rank).inside for rank in ranks]
            self._times[key] = linear_time(kind, hosts, inside, self.between, sharing)
        return self._times[key]

    def seconds(self, kind: str, nbytes: float, ranks: Sequence[int], sharing: int = 1) -> float:
        """How long a collective over these devices takes (collective_times.py).

        Args:
            kind: "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast" or "send".
            nbytes: of the whole tensor: what is reduced, gathered, broadcast or sent; in an all_to_all what a rank has.
            ranks: the devices, in the order of the ring; of a broadcast the root first, of a send from and to.
            sharing: how many such collectives, of other devices, cross the same links between hosts at the same time.
        Raises:
            ValueError: there is no such collective or device.
        """
        return self.linear_time(kind, ranks, sharing).of(check_number("nbytes", nbytes, "bytes", 0))

    def explain(self) -> str:
        """A table."""
        from merak.planner.cluster_table import table

        return table(self)

    @staticmethod
    def load(path: str | Path) -> Cluster:
        """What `save` has written, or a file written by hand (cluster_file.py).

        Raises:
            ValueError: it says what cannot be; the text names file, field, value, and what is expected.
            OSError: it cannot be read.
        """
        from merak.planner.cluster_file import load

        return load(path)

    def save(self, path: str | Path) -> None:
        """Writes it there as JSON."""
        from merak.planner.cluster_file import save

        save(self, path)

    @cached_property
    def _ends(self) -> list[int]:
        """By group, the first number behind its devices."""
        return list(accumulate(group.devices for group in self.groups))

    @cached_property
    def _times(self) -> dict[tuple[str, tuple[int, ...], int], LinearTime]:
        return {}

    def _index(self, number: int) -> int:
        if not 0 <= number < self.devices:
            raise ValueError(f"device {number}: cluster {self.name!r} has {self.devices}, numbered from 0")
        return bisect_right(self._ends, number)

    def _check_call(self, kind: str, ranks: Sequence[int], sharing: int) -> None:
        if kind not in COLLECTIVES:
            raise ValueError(f"{kind!r} is no collective; expected one of {', '.join(COLLECTIVES)}")
        if not ranks or len(set(ranks)) < len(ranks):
            raise ValueError(f"{kind} over {list(ranks)}; expected devices, each of them once")
        if kind == "send" and len(ranks) != 2:
            raise ValueError(f"send over {list(ranks)}; expected two devices, from and to")
        with within(kind):
            check_whole("sharing", sharing, "how many at once")
