"""What the wires allow: the least time of a collective, and the bytes that leave the hosts.

Words: H hosts with R ranks each, n = H R ranks; every host has one full-duplex link of `goodput` bytes a second; inside
a host bytes are free. V, the column "bytes" of every table, is the size of

* broadcast, reduce, all_reduce: the tensor that every rank passes;
* all_gather, gather: the whole result, of which every rank contributes V / n;
* reduce_scatter, scatter: the whole input, of which every rank gets V / n;
* all_to_all: what one rank holds, of which it keeps V / n and sends V / n to every other rank.

The bound is the traffic of the busiest direction of the busiest link, divided by the goodput. Its reasons: in broadcast
every other host must receive V, in reduce every other host must send V or a partial sum of V; in all_gather a host
lacks what the ranks of the other hosts contribute, V (H - 1) / H, and reduce_scatter is its mirror image; all_reduce is
one after the other; scatter and gather pass everything but the root's host's share over the root's link; in all_to_all
each of the R ranks of a host sends the part V (H - 1) / H that is for ranks elsewhere. For all of these but reduce and
all_reduce no algorithm can be faster; for these two none can that adds every element where it is received.

Bytes that leave: the sum over all hosts for the hierarchical algorithm, in which every host sends and receives each
byte at most once for all of its ranks. Headers and acknowledgements, not counted here, add about 0.3 % to the counters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Traffic = Callable[[int, int, int], float]


@dataclass(frozen=True)
class Formula:
    """Bytes as a function of (V, H, R), with the text that stands beside the number.

    Attributes:
        busiest: bytes in the busier direction of the busiest link.
        leaving: bytes that leave all hosts together.
    """

    busiest: Traffic
    busiest_text: str
    leaving: Traffic
    leaving_text: str


def _share(size: int, hosts: int, ranks: int) -> float:
    return size * (hosts - 1) / hosts


def _whole(size: int, hosts: int, ranks: int) -> float:
    return float(size) if hosts > 1 else 0.0


def _chain(size: int, hosts: int, ranks: int) -> float:
    return float(size * (hosts - 1))


_SHARE = "V (H - 1) / H"
_CHAIN = "V (H - 1)"

FORMULAS = {
    "broadcast": Formula(_whole, "V", _chain, _CHAIN),
    "reduce": Formula(_whole, "V", _chain, _CHAIN),
    "all_reduce": Formula(
        lambda v, h, r: 2 * _share(v, h, r), f"2 {_SHARE}", lambda v, h, r: 2 * _chain(v, h, r), f"2 {_CHAIN}"
    ),
    "all_gather": Formula(_share, _SHARE, _chain, _CHAIN),
    "reduce_scatter": Formula(_share, _SHARE, _chain, _CHAIN),
    "all_to_all": Formula(
        lambda v, h, r: r * _share(v, h, r), f"R {_SHARE}", lambda v, h, r: r * _chain(v, h, r), f"R {_CHAIN}"
    ),
    "scatter": Formula(_share, _SHARE, _share, _SHARE),
    "gather": Formula(_share, _SHARE, _share, _SHARE),
    "barrier": Formula(lambda v, h, r: 0.0, "0", lambda v, h, r: 0.0, "0"),
}


def bound_seconds(name: str, size: int, hosts: int, ranks: int, goodput: float) -> float:
    """The least time of a collective. `size` is V in bytes, `goodput` bytes a second of one link's direction."""
    return FORMULAS[name].busiest(size, hosts, ranks) / goodput


def leaving_bytes(name: str, size: int, hosts: int, ranks: int) -> float:
    """Bytes that leave all hosts together under the hierarchical algorithm."""
    return FORMULAS[name].leaving(size, hosts, ranks)
