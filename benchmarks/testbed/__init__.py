"""A cluster on one machine: hosts are network namespaces behind a shaped switch. Needs root and iproute2.

It is emulated: the links have the speed of the stated rate, but all hosts share this machine's cores, memory and
kernel, and there is no propagation delay. See `topology` for the wiring and `launch` for running programs.
"""

from .cluster import Cluster, remove_stale, unavailable
from .goodput import measure_goodput
from .launch import HostOutput, LaunchError, json_lines, torchrun
from .shell import UnavailableError
from .topology import Topology

__all__ = [
    "Cluster",
    "HostOutput",
    "LaunchError",
    "Topology",
    "UnavailableError",
    "json_lines",
    "measure_goodput",
    "remove_stale",
    "torchrun",
    "unavailable",
]
