"""Random clusters, and collectives on them played message by message."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from merak.planner.cluster import Cluster, Group
from merak.planner.device import Device
from merak.planner.link import COLLECTIVES, Link

RINGS = ("all_reduce", "reduce_scatter", "all_gather")
PIECES = 200
"""That a broadcast is cut into."""


class Message(NamedTuple):
    """From a rank to another, once the messages `after` have arrived; of one of the collectives that go on at once."""

    source: int
    target: int
    nbytes: float
    after: tuple[int, ...]
    copy: int = 0


def random_link(choice: random.Random, latency: bool = True) -> Link:
    """Some of its collectives with an alpha and a beta of their own."""

    def draw(kind: str) -> tuple[float, float]:
        return choice.uniform(0, 5e-5) * latency, 1 / choice.uniform(1e8, 1e10)

    measured = {kind: draw(kind) for kind in COLLECTIVES if choice.random() < 0.5}
    return Link(choice.uniform(1e8, 1e10), choice.uniform(0, 5e-5) * latency, measured)


def random_cluster(choice: random.Random, latency: bool = True) -> Cluster:
    """With 1 to 3 groups."""
    device = Device.named("H100")
    groups = [
        Group(device, choice.randint(1, 3), choice.randint(1, 4), random_link(choice, latency))
        for _ in range(choice.randint(1, 3))
    ]
    return Cluster("random", tuple(groups), random_link(choice, latency))


def messages_of(kind: str, nbytes: float, ranks: list[int], copy: int = 0) -> list[Message]:
    """Of a collective, as the top of collective_times.py describes it, a message at a time."""
    n = len(ranks)
    if kind == "send":
        return [Message(ranks[0], ranks[1], nbytes, (), copy)]
    if kind == "broadcast":
        return [
            Message(ranks[edge], ranks[edge + 1], nbytes / PIECES, (piece * (n - 1) + edge - 1,) if edge else (), copy)
            for piece in range(PIECES)
            for edge in range(n - 1)
        ]
    found = []
    for step in range(2 * (n - 1) if kind == "all_reduce" else n - 1):
        for place, rank in enumerate(ranks):
            if kind == "all_to_all":  # having got that of the step before
                after, target = (step - 1) * n + (place - step) % n, ranks[(place + step + 1) % n]
            else:
                after, target = (step - 1) * n + (place - 1) % n, ranks[(place + 1) % n]
            found.append(Message(rank, target, nbytes / n, (after,) if step else (), copy))
    return found


def links_of(message: Message, cluster: Cluster) -> list[tuple[object, ...]]:
    """What a message occupies: its sender's path inside the host; or the links of both hosts."""
    here, there = cluster.host_of(message.source), cluster.host_of(message.target)
    return [("inside", message.copy, message.source)] if here == there else [("out", here), ("in", there)]


def alpha_beta(kind: str, message: Message, cluster: Cluster) -> tuple[float, float]:
    """Of the link that a message crosses."""
    inside = cluster.host_of(message.source) == cluster.host_of(message.target)
    link = cluster.group_of(message.source).inside if inside else cluster.between
    return link.alpha(kind), link.beta(kind)


def busiest_s(kind: str, cluster: Cluster, messages: list[Message]) -> float:
    """How long the link that carries most is busy."""
    busy: dict[object, float] = defaultdict(float)
    for message in messages:
        for link in links_of(message, cluster):
            busy[link] += message.nbytes * alpha_beta(kind, message, cluster)[1]
    return max(busy.values())


def simulated_s(kind: str, cluster: Cluster, messages: list[Message]) -> float:
    """When the last message has arrived: each starts when it may and its links are free, and occupies them for its
    bytes; after that it takes alpha more."""
    waiting = [len(message.after) for message in messages]
    releases = defaultdict(list)
    for number, message in enumerate(messages):
        for before in message.after:
            releases[before].append(number)
    free: dict[object, float] = defaultdict(float)
    ready = [(0.0, number) for number, count in enumerate(waiting) if not count]
    end = 0.0
    while ready:
        now, number = heapq.heappop(ready)
        alpha, beta = alpha_beta(kind, messages[number], cluster)
        links = links_of(messages[number], cluster)
        start = max(now, *(free[link] for link in links))
        for link in links:
            free[link] = start + messages[number].nbytes * beta
        arrived = start + messages[number].nbytes * beta + alpha
        end = max(end, arrived)
        for following in releases[number]:
            waiting[following] -= 1
            if not waiting[following]:
                heapq.heappush(ready, (arrived, following))
    return end


def cases(count: int, seed: int, latency: bool = True) -> Iterator[tuple[random.Random, Cluster, str, list[int]]]:
    """Random clusters with two devices or more, and for each a collective over some devices in the order of their
    numbers."""
    choice = random.Random(seed)
    while count:
        cluster = random_cluster(choice, latency)
        if cluster.devices < 2:
            continue
        kind = choice.choice(COLLECTIVES)
        size = 2 if kind == "send" else choice.randint(2, cluster.devices)
        yield choice, cluster, kind, sorted(choice.sample(range(cluster.devices), size))
        count -= 1
