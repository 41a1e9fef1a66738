"""How long a collective takes on a cluster.

Words: `n` ranks take part, in the order they are given in; `V` bytes is the whole tensor: what is reduced, gathered or
broadcast, and in an all_to_all what a rank holds. A *link* is a device's own path to its neighbours inside a host, or a
host's link to the network, which its devices share; both carry as much in each direction at the same time. A link has
*alpha*, seconds a step, and *beta*, seconds a byte that crosses it (link.py).

A *ring* goes from each rank to the next and from the last to the first. In each of its *rounds* every rank passes V/n
on. The *crossings* of a host's link are the ring's edges that leave the host: 1 if its ranks stand together. `sharing`
such collectives at once, of other ranks, cross the same host links. A round takes

    the mean alpha of the ring's edges + V/n times the largest of beta inside, and beta x crossings x sharing between

The mean, because each share goes along all edges but one, and waits for no rank elsewhere; the largest, because all
shares have to pass the slowest link. So

    reduce_scatter, all_gather    n - 1 rounds
    all_reduce                    2 (n - 1) rounds, and on the busiest link 2 (n - 1)/n V bytes
    broadcast                     a chain from the first rank, cut finely: the sum of the alphas of its n - 1 edges, and
                                  V bytes over its slowest link
    send                          alpha and V bytes over the one edge
    all_to_all                    n - 1 steps, in each of which a rank sends V/n to another. A rank of a host with m of
                                  the n ranks sends (m - 1) V/n inside it, while all of the host's together send
                                  m (n - m) V/n over its link; whichever takes longer. Alphas as a rank's messages have
                                  them: (m - 1) inside and (n - m) between

All of these are A + B V for some A and B, which depend on who takes part and not on V: that is what is returned. One
rank alone takes no time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from merak.planner.link import Link


class LinearTime(NamedTuple):
    """A collective of V bytes takes `latency_s + seconds_per_byte * V`."""

    latency_s: float
    seconds_per_byte: float

    def of(self, nbytes: float) -> float:
        """Seconds."""
        return self.latency_s + self.seconds_per_byte * nbytes


def steps(kind: str, ranks: int) -> int:
    """How often alpha counts where all links are the same."""
    return {"all_reduce": 2 * (ranks - 1), "send": 1}.get(kind, ranks - 1)


def crossing(kind: str, ranks: int) -> float:
    """What of V crosses each link where all links are the same, and none is shared."""
    return {"all_reduce": 2 * (ranks - 1) / ranks, "broadcast": 1.0, "send": 1.0}.get(kind, (ranks - 1) / ranks)


def linear_time(kind: str, hosts: Sequence[int], inside: Sequence[Link], between: Link, sharing: int) -> LinearTime:
    """See above.

    Args:
        hosts: of the ranks that take part.
        inside: of each of them, the link within its host.
        sharing: how many such collectives cross the host links at the same time.
    """
    ranks = len(hosts)
    if ranks == 1:
        return LinearTime(0.0, 0.0)
    if kind == "all_to_all":
        return _all_to_all(hosts, inside, between, sharing)
    if kind in ("broadcast", "send"):
        alphas, slowest = _edges(kind, hosts, inside, between, sharing, ranks - 1)
        return LinearTime(alphas, slowest)
    alphas, slowest = _edges(kind, hosts, inside, between, sharing, ranks)
    rounds = steps(kind, ranks)
    return LinearTime(rounds * alphas / ranks, rounds * slowest / ranks)


def _edges(
    kind: str, hosts: Sequence[int], inside: Sequence[Link], between: Link, sharing: int, edges: int
) -> tuple[float, float]:
    """Of a ring's or a chain's edges: the sum of their alphas, and the seconds a byte of the slowest link."""
    alphas, slowest = 0.0, 0.0
    leaving: Counter[int] = Counter()
    entering: Counter[int] = Counter()
    for edge in range(edges):
        here, there = hosts[edge], hosts[(edge + 1) % len(hosts)]
        if here == there:
            alphas += inside[edge].alpha(kind)
            slowest = max(slowest, inside[edge].beta(kind))
        else:
            alphas += between.alpha(kind)
            leaving[here] += 1
            entering[there] += 1
    crossings = max((*leaving.values(), *entering.values()), default=0)
    return alphas, max(slowest, between.beta(kind) * crossings * sharing)


def _all_to_all(hosts: Sequence[int], inside: Sequence[Link], between: Link, sharing: int) -> LinearTime:
    ranks, alphas, slowest = len(hosts), 0.0, 0.0
    here = Counter(hosts)
    for host, link in dict(zip(hosts, inside, strict=True)).items():
        locals_, others = here[host], ranks - here[host]
        alpha = (locals_ - 1) * link.alpha("all_to_all") + others * between.alpha("all_to_all")
        of_rank = (locals_ - 1) / ranks * link.beta("all_to_all")
        of_host = locals_ * others / ranks * between.beta("all_to_all") * sharing
        alphas, slowest = max(alphas, alpha), max(slowest, of_rank, of_host)
    return LinearTime(alphas, slowest)
