"""The cluster as data: which namespaces, links and addresses a test bed has, and the commands that make them.

Words used here:

* a *host* is a network namespace with one interface, ``eth0``, and a loopback interface of its own;
* the *hub* is one more namespace that holds a bridge, ``br0``, the cluster's switch;
* a *link* is the veth pair between a host's ``eth0`` and its port ``port<i>`` on the hub. Both ends are shaped by a
  token bucket: ``eth0`` limits what leaves the host, the port limits what enters it, so a link is full duplex.

Because the switch lives in a namespace too, nothing of a cluster is visible outside it: several clusters use the same
addresses at once without meeting, and the machine's own network is never touched. Only the names of the namespaces are
shared by the whole machine; they start with a prefix that says who owns them (see ``ownership``).

On the wire: a full TCP segment carries 1,448 bytes of payload in 1,514 bytes of Ethernet frame (MTU 1,500, 20 bytes of
IP, 32 of TCP with timestamps, 14 of Ethernet), so a link of 1 Gbit/s delivers 119.6 MB/s. That is `Topology.goodput`,
the bandwidth in every lower bound. A message no longer than the bucket (`burst`) leaves unshaped: its time compares
backends with each other, not with the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

INTERFACE = "eth0"
MAX_HOSTS = 250
SEGMENT_PAYLOAD = 1448
SEGMENT_FRAME = 1514
# The bucket must hold one whole offloaded packet (64 KiB and its headers), or the kernel cuts every packet in software.
# Twice that keeps the link busy when the timer that refills the bucket fires late on a loaded machine.
DEFAULT_BURST = 128 * 1024
QUEUE_LATENCY = "200ms"


@dataclass(frozen=True)
class Topology:
    """A cluster of equal hosts behind one switch.

    Attributes:
        hosts: number of hosts, 1 to 250.
        rate: bits per second of every link, in each direction.
        burst: bytes of the token bucket at both ends of a link.
        congestion: TCP congestion control inside the hosts. Fixed, because the default differs between machines; reno
            is the one that every kernel has and allows inside a namespace.
    """

    hosts: int = 2
    rate: int = 1_000_000_000
    burst: int = DEFAULT_BURST
    congestion: str = "reno"

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= MAX_HOSTS:
            raise ValueError(f"a test bed has 1 to {MAX_HOSTS} hosts, not {self.hosts}")
        if self.rate <= 0 or self.burst <= 0:
            raise ValueError(f"rate and burst must be positive, not {self.rate} bit/s and {self.burst} bytes")

    @property
    def goodput(self) -> float:
        """Bytes of TCP payload per second that one direction of a link can carry."""
        return self.rate / 8 * SEGMENT_PAYLOAD / SEGMENT_FRAME

    def address(self, host: int) -> str:
        """IPv4 address of a host, counted from 0."""
        return f"10.77.0.{host + 1}"

    def commands(self, prefix: str) -> list[list[str]]:
        """Every command that builds the cluster, in order. Namespaces are called `host_name` and `hub_name`."""
        commands = _hub_commands(hub_name(prefix))
        for host in range(self.hosts):
            commands += self._host_commands(prefix, host)
        return commands

    def namespaces(self, prefix: str) -> list[str]:
        """Names of the namespaces that `commands` makes."""
        return [hub_name(prefix)] + [host_name(prefix, host) for host in range(self.hosts)]

    def _host_commands(self, prefix: str, host: int) -> list[list[str]]:
        hub, name, port = hub_name(prefix), host_name(prefix, host), f"port{host}"
        congestion = f"echo {self.congestion} > /proc/sys/net/ipv4/tcp_congestion_control"
        return [
            ["ip", "netns", "add", name],
            ["ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", name],
            # Without this the kernel's own IPv6 chatter would show in the byte counters.
            ["ip", "-n", hub, "link", "set", port, "addrgenmode", "none"],
            ["ip", "-n", name, "link", "set", INTERFACE, "addrgenmode", "none"],
            ["ip", "-n", hub, "link", "set", port, "master", "br0", "up"],
            ["ip", "-n", name, "addr", "add", f"{self.address(host)}/24", "dev", INTERFACE],
            ["ip", "-n", name, "link", "set", "lo", "up"],
            ["ip", "-n", name, "link", "set", INTERFACE, "up"],
            self._shaping(hub, port),
            self._shaping(name, INTERFACE),
            ["ip", "netns", "exec", name, "sh", "-c", congestion],
        ]

    def _shaping(self, namespace: str, interface: str) -> list[str]:
        bucket = ["tbf", "rate", f"{self.rate}bit", "burst", f"{self.burst}b", "latency", QUEUE_LATENCY]
        return ["tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", *bucket]


def hub_name(prefix: str) -> str:
    return f"{prefix}-hub"


def host_name(prefix: str, host: int) -> str:
    return f"{prefix}-host{host}"


def _hub_commands(hub: str) -> list[list[str]]:
    return [
        ["ip", "netns", "add", hub],
        ["ip", "-n", hub, "link", "add", "br0", "type", "bridge"],
        ["ip", "-n", hub, "link", "set", "br0", "addrgenmode", "none"],
        ["ip", "-n", hub, "link", "set", "br0", "up"],
    ]
