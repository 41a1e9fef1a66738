"""What a model costs on the devices of a cluster, worked out once for each way to divide its layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from merak.planner.cluster import Cluster
from merak.planner.collective_times import LinearTime
from merak.planner.plan import Plan
from merak.planner.points import points_of
from merak.planner.shared_work import SharedWorkload
from merak.planner.timing import Timed, Timing
from merak.planner.workload import Workload
from merak.sharding.annotations import Annotation, Tactic

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""That products are computed in, by a plan's precision."""
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


def ways_of(plan: Plan) -> list[Way]:
    """By pipeline rank."""
    return [
        Way(width, plan.sequence_parallel and width > 1, plan.sub_batches if width > 1 else 1) for width in plan.widths
    ]


class Prices:
    """Prices of one model on one cluster.

    Args:
        precision: what products are computed in: "fp32", "bf16", "fp16".
        annotations: what the user wishes of layers that are shared; these come before Megatron's way.
    """

    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        *,
        precision: str = "fp32",
        annotations: Sequence[Annotation | Tactic] = (),
    ) -> None:
        self.workload, self.cluster, self.precision = workload, cluster, precision
        self._annotations = annotations
        self._timings: dict[tuple[int, bool], Timing] = {}
        self._timed: dict[tuple[Way, float, Place], Timed] = {}

    def on(self, cluster: Cluster) -> Prices:
        """Of the same model on another cluster."""
        made = Prices(self.workload, cluster, precision=self.precision, annotations=self._annotations)
        made._timings = self._timings
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
            self._timed[key] = timing.at(rows, self.cluster.device(devices[0]), dtype, links, way.sub_batches)
        return self._timed[key]

    def _link(self, kind: str, devices: Sequence[int]) -> LinearTime:
        """Of a collective of these devices; what is sent goes to the next."""
        return self.cluster.linear_time(kind, devices[:2] if kind == "send" else devices)
