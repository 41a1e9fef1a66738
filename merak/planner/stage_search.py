"""Stages on shapes of devices, so that a step takes the least time: boundaries, shapes, and what each recomputes.

What a step takes and the search are csrc/planner (search_model.h, stage_search.h); this is its Python face. It is the
inter-operator part of Alpa (Zheng et al., OSDI 2022), with recomputation and the stages' own memory as part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from merak import _C
from merak.graph.cutting import GraphCosts, StageCost, advice
from merak.resharding.explaining import size_text


@dataclass(frozen=True)
class StageShape:
    """Neighbouring devices that a stage may be put on, and what nodes cost there.

    Attributes:
        devices: how many.
        costs: of one of them, with seconds of communication among them. All shapes have the same nodes, and boundaries
            are allowed at the same.
        memory: bytes of a device, work space not counted; None: unlimited.
        bandwidth, latency: bytes/s and seconds of a message that a stage on it receives, or returns.
        once_s_per_byte: seconds a step for each byte of a device's parameters: gradients' synchronisation and the
            optimizer.
        state_factor: bytes of parameter, gradient and optimizer state for each byte of parameter.
        may_begin: by the number of devices before it, 0 to all of them, whether a stage may begin there; by default it
            may anywhere. So shapes keep to hosts, or to devices of one kind.
    """

    devices: int
    costs: GraphCosts
    memory: float | None = None
    bandwidth: float = math.inf
    latency: float = 0.0
    once_s_per_byte: float = 0.0
    state_factor: float = 4.0
    may_begin: tuple[bool, ...] = ()


@dataclass(frozen=True)
class FoundStage:
    """A stage on its devices.

    Attributes:
        shape: which of those given.
        first_device, devices: it has the devices first_device, first_device + 1, ...
        cost: of one of them.
        pass_s, period_s: seconds that it adds to the way of the first micro-batch, and that each further one takes
            where this stage is the slowest; both with the share of a micro-batch in what happens once a step.
        once_s: seconds of what happens once a step.
        missing_bytes: by how much a device's memory is too small.
    """

    shape: int
    first_device: int
    devices: int
    cost: StageCost
    pass_s: float
    period_s: float
    once_s: float
    missing_bytes: float


@dataclass(frozen=True)
class FoundStages:
    """Stages from first to last.

    Attributes:
        step_s: all passes, and the bottleneck for each micro-batch but one.
        bottleneck_s: the longest period.
        bound_s: no arrangement with as many stages takes less.
    """

    stages: tuple[FoundStage, ...]
    step_s: float
    bottleneck_s: float
    bound_s: float

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first node of each stage but the first."""
        return tuple(stage.cost.first for stage in self.stages[1:])

    @property
    def shapes(self) -> tuple[int, ...]:
        """By stage."""
        return tuple(stage.shape for stage in self.stages)

    @property
    def recomputed(self) -> tuple[int, ...]:
        """By stage: how many nodes, from its first on, run forward again before backward."""
        return tuple(stage.cost.recomputed for stage in self.stages)


@dataclass(frozen=True)
class SearchResult:
    """What was found.

    Attributes:
        found: for each number of stages that fits, the best; in the order of their steps.
        bound_s: no arrangement, with whatever number of stages, takes less.
        trials: limits on the period that were tried.
    """

    found: tuple[FoundStages, ...]
    bound_s: float
    trials: int

    @property
    def best(self) -> FoundStages:
        """That with the shortest step."""
        return self.found[0]

    @property
    def gap(self) -> float:
        """The share of the best step that a better one could save at most."""
        return 1 - self.bound_s / self.best.step_s if self.best.step_s > 0 else 0.0


class NoStagesError(ValueError):
    """No stages take all devices: there are too few places to begin, or too few devices for the shapes."""


class StagesDoNotFitError(ValueError):
    """No stages fit into the devices' memory. Its text says what is missing, and what would fit.

    Attributes:
        stages: those whose worst misses least.
    """

    def __init__(self, stages: FoundStages, remedies: Sequence[str]) -> None:
        misses = [
            f"stage {number} (nodes {stage.cost.first}-{stage.cost.end - 1} on {_devices_text(stage)}) misses "
            f"{size_text(stage.missing_bytes)} of {size_text(stage.cost.memory_bytes)}"
            for number, stage in enumerate(stages.stages)
            if stage.missing_bytes
        ]
        count = len(stages.stages)
        super().__init__(
            f"no stages fit, however cut and placed. What misses least has {count} stage{'s' if count > 1 else ''}: "
            f"{'; '.join(misses)}. {advice(remedies)}."
        )
        self.stages = stages


def search_stages(
    shapes: Sequence[StageShape],
    devices: int,
    *,
    max_stages: int | None = None,
    micro_batches: int = 1,
    in_flight: Sequence[int | tuple[int, int]] | None = None,
    hides_communication: bool = False,
    recompute: str = "auto",
    tolerance: float = 0.0,
    within: float = math.inf,
    most_s: float = math.inf,
    stages: int | None = None,
    boundaries: Sequence[int] = (),
    shape_of_stage: Sequence[int | None] = (),
    diagnose: bool = True,
) -> SearchResult:
    """The stages with the shortest steps, for each number of them.

    Args:
        devices: of one replica, all of which are used: the first stage has those from 0 on, and so forth.
        max_stages: the most that are tried; as many as there are devices, places to cut, and entries of `in_flight`.
        micro_batches, hides_communication: as `merak.graph.cutting.Conditions` has them.
        in_flight: by the number of stages behind, from 0, the most micro-batches whose activations live in a stage at
            once: n, or (whole, checkpointed). Plain 1F1B.
        recompute: "auto", the least that fits; "none"; "all".
        tolerance: the share of a step that may be left on the table, so that the search is faster; 0 is exact.
        within: numbers of stages whose steps take more than 1 + `within` times the best are left out.
        most_s: steps that are longer are left out, so that the search is faster.
        stages: how many there have to be.
        boundaries: nodes where a stage has to begin.
        shape_of_stage: by stage, its shape, or None for any; needs `stages`.
        diagnose: find out what misses the least where nothing fits, which may take longer than the search; otherwise
            the result is empty.
    Raises:
        StagesDoNotFitError: it is a ValueError too.
        NoStagesError: no stages take all devices; it is one too.
        ValueError: the arguments make no sense.
    """
    if stages is not None and stages < 1:
        raise ValueError(f"{stages} stages; there has to be one at least")
    if not shapes:
        raise ValueError("stages need a shape to be put on; none is given")
    if max_stages is None:
        max_stages = max(stages or 1, min(devices, sum(shapes[0].costs.may_cut[1:]) + 1))
        max_stages = max_stages if in_flight is None else min(max_stages, len(in_flight))
    if in_flight is None:
        in_flight = [min(micro_batches, behind + 1) for behind in range(max_stages)]
    search = _C.StageSearch(
        shapes=[_shape(shape) for shape in shapes],
        devices=devices,
        max_stages=max_stages,
        micro_batches=micro_batches,
        in_flight=[(1, one - 1) if isinstance(one, int) else one for one in in_flight],
        hides_communication=hides_communication,
        recompute=recompute,
        tolerance=tolerance,
        within=within,
        most_s=most_s,
    )
    pinned = (stages or 0, list(boundaries), [-1 if shape is None else shape for shape in shape_of_stage])
    found, bound_s, trials = search.search(pinned)
    if not found and diagnose:
        try:
            missing = search.least_missing(pinned)
        except ValueError as error:
            raise NoStagesError(str(error)) from error
        raise StagesDoNotFitError(_found(missing), _remedies(*search.remedies(pinned)))
    return SearchResult(tuple(_found(one) for one in found), bound_s, trials)


def _shape(shape: StageShape) -> tuple[int, _C.CutCosts, float, float, float, float, float, list[bool]]:
    return (
        shape.devices,
        shape.costs.tables,
        shape.latency,
        shape.bandwidth,
        math.inf if shape.memory is None else shape.memory,
        shape.once_s_per_byte,
        shape.state_factor,
        list(shape.may_begin),
    )


def _found(facts: dict[str, Any]) -> FoundStages:
    stages = tuple(FoundStage(**{**stage, "cost": StageCost(**stage["cost"])}) for stage in facts["stages"])
    return FoundStages(stages, facts["step_s"], facts["bottleneck_s"], facts["bound_s"])


def _remedies(recompute: bool, in_flight: int, stages: int) -> list[str]:
    found = []
    if recompute:
        found.append('with recompute="auto"')
    if in_flight:
        found.append(f"with at most {in_flight} micro-batch{'es' if in_flight > 1 else ''} in flight at each stage")
    if stages:
        found.append(f"with {stages} stage{'s' if stages > 1 else ''}")
    return found


def _devices_text(stage: FoundStage) -> str:
    last = stage.first_device + stage.devices - 1
    return f"device {last}" if stage.devices == 1 else f"devices {stage.first_device}-{last}"
