"""Where the stages of one replica may be, and which arrangements of them are the best by the formula of a step.

A *shape* is a number of devices that share a stage's layers, in a certain *place*: on which kind of device they are,
and what links them. The stages of all replicas lie side by side, so that a stage of w devices that begins behind d
devices of its own replica has, in a cluster, the devices from dp * d on: w for each replica. A shape may begin wherever
all replicas find the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from merak.planner.collective_times import LinearTime
from merak.planner.gradient_sums import sum_of_gradients
from merak.planner.prediction import accumulation_s_per_byte, crossing, optimizer_s_per_byte, owners, states
from merak.planner.prices import Place, Prices, Way
from merak.planner.stage_search import FoundStages, SearchResult, StageShape, search_stages

_MOST_STAGES = 64
_TOLERANCE, _WITHIN = 0.01, 0.1
"""What a search may leave on the table; and how much slower, by the formula, an arrangement worth simulating may be."""


@dataclass(frozen=True)
class Space:
    """What is settled before stages are looked for.

    Attributes:
        dp: replicas.
        rows: of a micro-batch.
        microbatches: of a replica.
        sequence_parallel, sub_batches: how ranks share layers.
    """

    dp: int
    rows: int
    microbatches: int
    sequence_parallel: bool
    sub_batches: int


@dataclass(frozen=True)
class Arrangement:
    """Stages on devices.

    Attributes:
        widths: by stage, how many devices share it.
        segments: where stages begin, but the first: segments between the points of the prices.
        step_s: by the formula.
        waiting_s: of it, what is not the slowest stage's work.
    """

    widths: tuple[int, ...]
    segments: tuple[int, ...]
    step_s: float
    waiting_s: float


class Shapes:
    """The shapes of a replica's stages, and where each may begin.

    Args:
        space: what is settled.
        pinned: fields of the plan that are settled.
    """

    def __init__(self, prices: Prices, space: Space, pinned: Mapping[str, Any]) -> None:
        self._prices, self._space, self._pinned = prices, space, pinned
        self.devices = prices.cluster.devices // space.dp

    @cached_property
    def places(self) -> dict[tuple[int, Place], list[int]]:
        """By width and place: how many devices of the replica are before it, where it may begin."""
        found: dict[tuple[int, Place], list[int]] = {}
        cluster = self._prices.cluster
        for width in self._widths():
            if cluster.homogeneous and cluster.groups[0].devices_per_host % width == 0:
                if begins := self._in_equal_hosts(width):
                    found[width, self._prices.place(self.team(0, width))] = begins
                continue
            for before in range(self.devices - width + 1):
                place = self._place(before, width)
                if place is not None:
                    found.setdefault((width, place), []).append(before)
        return found

    def way(self, width: int) -> Way:
        """How so many ranks share layers."""
        return Way.of(width, self._space.sequence_parallel, self._space.sub_batches)

    def team(self, before: int, width: int, replica: int = 0) -> range:
        """The devices of the cluster that share a stage."""
        first = self._space.dp * before + replica * width
        return range(first, first + width)

    def _widths(self) -> Iterator[int]:
        """Those that may be: a host, or an equal part of one."""
        pinned, cluster = self._pinned.get("tp"), self._prices.cluster
        if pinned is not None:
            yield from sorted({pinned} if isinstance(pinned, int) else set(pinned))
            return
        per_host = max(group.devices_per_host for group in cluster.groups)
        yield from (width for width in range(1, min(per_host, self.devices) + 1) if per_host % width == 0)

    def _in_equal_hosts(self, width: int) -> list[int]:
        """Where no team lies across two hosts, which depends on the first one's place in its host alone."""
        dp, per_host = self._space.dp, self._prices.cluster.groups[0].devices_per_host

        def within(place: int) -> bool:
            firsts = (place + replica * width for replica in range(min(dp, per_host // width)))
            return all(first % per_host + width <= per_host for first in firsts)

        may = [within(place) for place in range(per_host)]
        return [before for before in range(self.devices - width + 1) if may[dp * before % per_host]]

    def _place(self, before: int, width: int) -> Place | None:
        """Nothing where replicas would find different places, or a narrow stage would lie across hosts."""
        cluster, dp = self._prices.cluster, self._space.dp
        places = set()
        for team in (self.team(before, width, replica) for replica in range(dp)):
            hosts = {cluster.host_of(one) for one in team}
            kinds = {cluster.device(one).name for one in team}
            if len(kinds) > 1 or (len(hosts) > 1 and width <= cluster.group_of(team[0]).devices_per_host):
                return None
            places.add(self._prices.place(team))
        return places.pop() if len(places) == 1 else None

    def of(self, memory: int | None) -> list[StageShape]:
        """For a search."""
        return [self._shape(width, begins, memory) for (width, _), begins in self.places.items()]

    def _shape(self, width: int, begins: list[int], memory: int | None) -> StageShape:
        prices, cluster = self._prices, self._prices.cluster
        team = self.team(begins[0], width)
        costs = prices.timed(self.way(width), self._space.rows, team).in_segments(prices.points)
        latency, per_byte = self._link(begins[0], width)
        budget = min(cluster.memory_bytes(self.team(begin, width)[0]) for begin in begins)
        may_begin = [False] * (self.devices + 1)
        for begin in begins:
            may_begin[begin] = True
        return StageShape(
            devices=width,
            costs=costs,
            memory=budget if memory is None else min(budget, memory),
            bandwidth=1 / per_byte if per_byte else float("inf"),
            latency=latency,
            once_s_per_byte=self.once_s_per_byte(begins[0], width),
            state_factor=states(self._owners),
            may_begin=tuple(may_begin),
        )

    def once_s_per_byte(self, before: int, width: int) -> float:
        """Seconds of a step for each byte of a device's parameters: gradients, added up over micro-batches and over
        replicas, and the optimizer."""
        cluster, team = self._prices.cluster, self.team(before, width)
        ring = [self.team(before, width, replica)[0] for replica in range(self._space.dp)]
        return (
            optimizer_s_per_byte(cluster.device(team[0]), self._owners)
            + accumulation_s_per_byte(cluster.device(team[0]), self._space.microbatches)
            + sum_of_gradients(cluster, ring, team).seconds_per_byte
        )

    @property
    def _owners(self) -> int:
        return owners(self._space.dp, self._pinned.get("data_parallel", "zero1"))

    def _link(self, before: int, width: int) -> LinearTime:
        """What a stage receives from the one before, or sends to the next, by its bytes."""
        cluster, dp = self._prices.cluster, self._space.dp
        if self.devices == width:
            return LinearTime(0.0, 0.0)
        block = range(dp * before, dp * (before + width))
        outside = block.stop if block.stop < cluster.devices else block.start - 1
        teams = [self.team(before, width, replica) for replica in range(dp)]
        return crossing(cluster, teams, range(outside, outside + width))


def ideal_s(prices: Prices, space: Space, pinned: Mapping[str, Any]) -> float:
    """A step of a space in which no device waits for another, with all work on the devices that do it cheapest. None
    of its plans takes less, since devices take this much on average."""
    shapes = Shapes(prices, space, pinned)
    work, once = [], []
    for (width, _), begins in shapes.places.items():
        timed = prices.timed(shapes.way(width), space.rows, shapes.team(begins[0], width))
        work.append(width * timed.seconds)
        once.append(shapes.once_s_per_byte(begins[0], width))
    nbytes = sum(prices.workload.parameter_bytes[name] for name in prices.workload.parameters)
    if (
        pinned.get("data_parallel", "sparse") == "sparse" and prices.workload.has_large_tables
    ):  # of which little need travel
        nbytes -= sum(table.nbytes for table in prices.workload.tables)
    least, least_once = min(work, default=float("inf")), min(once, default=0.0)
    return (space.microbatches * least + nbytes * least_once) / shapes.devices


def arrangements(
    prices: Prices,
    space: Space,
    kind: str,
    memory: int | None,
    pinned: Mapping[str, Any],
    *,
    most_s: float = float("inf"),
    diagnose: bool = False,
) -> tuple[list[Arrangement], float]:
    """The best arrangements of a space, from the fastest on, and what none takes less than.

    Args:
        kind: "1f1b", or "eager", which hides messages behind more micro-batches in flight.
        memory: bytes that a device may use, if less than it has.
        most_s: by the formula, steps that are longer are left out.
        diagnose: where none fits, find out what misses the least.

    Raises:
        StagesDoNotFitError, NoStagesError: none fits, or takes all devices, if `diagnose`.
    """
    shapes = Shapes(prices, space, pinned)
    of_search = shapes.of(memory)
    most = min(_MOST_STAGES, shapes.devices)
    m = space.microbatches
    in_flight = [min(m, behind + 1 if kind == "1f1b" else 2 * behind + 1) for behind in range(most)]
    widths = pinned.get("tp")
    result: SearchResult = search_stages(
        of_search,
        shapes.devices,
        max_stages=most,
        micro_batches=m,
        in_flight=in_flight,
        hides_communication=kind == "eager",
        diagnose=diagnose,
        tolerance=_TOLERANCE,
        within=_WITHIN,
        most_s=most_s,
        stages=len(widths) if isinstance(widths, tuple) else pinned.get("pp"),
        shape_of_stage=[_index(list(shapes.places), one) for one in widths] if isinstance(widths, tuple) else (),
    )
    return [_arrangement(one, of_search, m) for one in result.found], result.bound_s


def _index(places: list[tuple[int, Place]], width: int) -> int:
    return next(index for index, (other, _) in enumerate(places) if other == width)


def _arrangement(found: FoundStages, shapes: list[StageShape], microbatches: int) -> Arrangement:
    widths = tuple(shapes[shape].devices for shape in found.shapes)
    return Arrangement(widths, found.boundaries, found.step_s, found.step_s - microbatches * found.bottleneck_s)
