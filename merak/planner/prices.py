"""What a model costs on the devices of a cluster, worked out once for each way to divide its layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from merak.pipeline.microbatches import bind
from merak.planner.cluster import Cluster
from merak.planner.collective_times import LinearTime
from merak.planner.device import DTYPES
from merak.planner.plan import Plan, Precision
from merak.planner.points import points_of
from merak.planner.profiling import Profiler
from merak.planner.shared_work import SharedWorkload
from merak.planner.timing import Measured, Timed, Timing
from merak.planner.workload import Workload
from merak.sharding.annotations import Annotation, Tactic
from merak.sharding.divided import Divided
from merak.sharding.parts import Place as Part
from merak.sharding.width import Width

_MOST_POINTS = 128
_COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")

Place = tuple[str, tuple[LinearTime, ...]]
"""What prices depend on: a device's name, and what collectives take among those that share layers."""


@dataclass(frozen=True)
class Way:
    """How ranks share layers: how many, whether positions are divided too, and in how many parts they compute."""

    ranks: int = 1
    sequence_parallel: bool = False
    sub_batches: int = 1

    @staticmethod
    def of(ranks: int, sequence_parallel: bool, sub_batches: int) -> Way:
        """One rank alone shares nothing."""
        return Way(ranks, sequence_parallel, sub_batches) if ranks > 1 else Way()


def ways_of(plan: Plan) -> list[Way]:
    """By pipeline rank."""
    return [Way.of(width, plan.sequence_parallel, plan.sub_batches) for width in plan.widths]


class Prices:
    """Prices of one model on one cluster.

    Args:
        precision: what products are computed in: "fp32", "bf16", "fp16".
        annotations: what the user wishes of layers that are shared; these come before Megatron's way.
        profiler: measures operations on this machine, whose device the cluster's are then like; without one their
            seconds follow from the speeds that the cluster says.
    """

    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        *,
        precision: Precision = "fp32",
        annotations: Sequence[Annotation | Tactic] = (),
        profiler: Profiler | None = None,
    ) -> None:
        self.workload, self.cluster, self.precision = workload, cluster, precision
        self._annotations, self._profiler = annotations, profiler
        self._timings: dict[tuple[int, bool], Timing] = {}
        self._timed: dict[tuple[Way, float, Place], Timed] = {}
        self._measurements: dict[tuple[Way, int], Measured] = {}

    def on(self, cluster: Cluster) -> Prices:
        """Of the same model on another cluster."""
        made = Prices(
            self.workload,
            cluster,
            precision=self.precision,
            annotations=self._annotations,
            profiler=self._profiler,
        )
        made._timings, made._measurements = self._timings, self._measurements
        return made

    @cached_property
    def points(self) -> list[int]:
        """Positions in the trunk where a search may let stages begin."""
        return points_of(self.timed(Way(), self.workload.rows, [0]).costs(), _MOST_POINTS)

    def shared(self, ranks: int, sequence_parallel: bool) -> SharedWorkload:
        """The model's operations, shared so."""
        return self._timing(ranks, sequence_parallel and ranks > 1).shared

    def _timing(self, ranks: int, sequence_parallel: bool) -> Timing:
        key = ranks, sequence_parallel
        if key not in self._timings:
            shared = SharedWorkload(
                self.workload, ranks, sequence_parallel=sequence_parallel, annotations=self._annotations
            )
            self._timings[key] = Timing(shared)
        return self._timings[key]

    def place(self, devices: Sequence[int]) -> Place:
        """What prices on devices that share layers depend on: places that cannot be told apart are equal."""
        links = [self.cluster.linear_time(kind, devices) for kind in _COLLECTIVES] if len(devices) > 1 else []
        return self.cluster.device(devices[0]).name, tuple(links)

    def check_plan(self, plan: Plan, rows: int) -> None:
        """Refuses what cannot be predicted.

        Raises:
            ValueError: the plan is for another number of devices, or needs more rows.
        """
        plan.check_world(self.cluster.devices)
        if rows < plan.dp * plan.microbatches:
            raise ValueError(
                f"a batch of {rows} rows is too small for {plan.dp} replicas of {plan.microbatches} micro-batches: "
                "give each at least one row"
            )

    def timed(self, way: Way, rows: float, devices: Sequence[int]) -> Timed:
        """What a micro-batch of so many rows costs on these devices, which share its layers."""
        key = way, rows, self.place(devices)
        if key not in self._timed:
            timing = self._timing(way.ranks, way.sequence_parallel)
            dtype = DTYPES[self.precision]
            links = functools.partial(self._link, devices=devices)
            measured = None if self._profiler is None else self._measured(way, math.ceil(rows), self._profiler)
            device = self.cluster.device(devices[0])
            self._timed[key] = timing.at(rows, device, dtype, links, way.sub_batches, measured)
        return self._timed[key]

    def _measured(self, way: Way, rows: int, profiler: Profiler) -> Measured:
        """By operation of the whole trunk: what is there for its sake in the graph of a rank."""
        if (way, rows) in self._measurements:
            return self._measurements[way, rows]
        whole, trainable = self.workload.prepared, self.workload.trainable
        divided = Divided(whole, whole)
        if way.ranks > 1:
            width = Width(
                way.ranks,
                self._annotations,
                trainable,
                Part(0, way.ranks, ""),
                sequence_parallel=way.sequence_parallel,
                sub_batches=way.sub_batches,
            )
            divided = width.divide(whole, [])
        captured, cuttable = divided.prepared.captured, divided.prepared.cuttable
        micro_batch = bind(captured, self.workload.batch_of(rows), 0)
        seconds = profiler.profile(captured, cuttable, micro_batch)
        found = np.zeros((2, len(whole.cuttable.trunk)))
        for index, node in enumerate(cuttable.trunk):
            found[:, divided.of_whole[index]] += seconds[node]
        self._measurements[way, rows] = found[0], found[1]
        return found[0], found[1]

    def _link(self, kind: str, devices: Sequence[int]) -> LinearTime:
        """Of a collective of these devices; what is sent goes to the next."""
        return self.cluster.linear_time(kind, devices[:2] if kind == "send" else devices)
