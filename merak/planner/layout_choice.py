"""Whether layouts of the integer program are cheaper than Megatron's, by how many ranks share layers.

Beside them are Megatron's layouts with and without sequence parallelism, on the same devices and for the same
micro-batches, by the same prices. What is found has to fit where Megatron's cheaper one does: it may keep no more for
the backward and of parameters, with gradients and the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from merak.planner.arrangements import Shapes, Space
from merak.planner.device import DTYPES
from merak.planner.layout_model import Setting
from merak.planner.layout_plan import FoundLayouts, LayoutsDoNotFitError, find_layouts, links_of, settled_s
from merak.planner.prediction import Prediction, owners, states
from merak.planner.prices import Prices
from merak.planner.shared_work import SharedWorkload
from merak.planner.timing import Timing
from merak.sharding.annotations import Annotation, Tactic
from merak.sharding.program import ShardableGraph
from merak.sharding.width import AXIS

_WORTH = 0.995
"""Of Megatron's seconds, that layouts have to come below to be worth another search."""


def cheaper_layouts(prices: Prices, near: Prediction, pinned: Mapping[str, Any]) -> dict[int, FoundLayouts]:
    """By number of ranks, the layouts that are cheaper than Megatron's; none for others.

    Args:
        near: of the plan whose micro-batches and replicas they are for.
        pinned: fields of the plan that are settled.
    """
    plan = near.plan
    space = Space(plan.dp, round(near.rows), plan.microbatches, False, 1)
    shapes = Shapes(prices, space, pinned)
    found: dict[int, FoundLayouts] = {}
    for (width, _), begins in shapes.places.items():
        if width > 1 and width not in found:
            team = shapes.team(begins[0], width)
            setting = Setting(
                mesh={AXIS: width},
                links=links_of(prices.cluster, team, {AXIS: width}),
                device=prices.cluster.device(team[0]),
                dtype=DTYPES[prices.precision],
                rows=near.rows,
                micro_batches=plan.microbatches,
                parameter_s_per_byte=shapes.once_s_per_byte(begins[0], width),
                state_factor=states(owners(plan.dp, plan.data_parallel)),
                passing=False,
            )
            cheaper = _cheaper(prices, setting)
            if cheaper is not None:
                found[width] = cheaper
    return found


def by_width(found: Mapping[int, FoundLayouts]) -> Tactic:
    """A tactic that divides layers over so many ranks as was found for that number, and leaves others to those that
    come behind it."""

    def found_layouts(graph: ShardableGraph) -> list[Annotation]:
        layouts = found.get(graph.ranks(AXIS) if AXIS in graph.mesh else 0)
        return [] if layouts is None else layouts.of(graph)

    return found_layouts


def _cheaper(prices: Prices, setting: Setting) -> FoundLayouts | None:
    ranks = setting.mesh[AXIS]
    tactics = [prices.shared(ranks, sequence_parallel) for sequence_parallel in (False, True)]
    seconds, shared = min(((settled_s(one, setting), one) for one in tactics), key=lambda pair: pair[0])
    try:
        found = find_layouts(prices.workload, replace(setting, memory=_kept_bytes(shared, setting)))
    except LayoutsDoNotFitError:  # what several operations save is counted once here, and in each layout there
        return None
    assert found.settled_s is not None, "on a mesh of one axis"
    return found if found.settled_s < _WORTH * seconds else None


def _kept_bytes(shared: SharedWorkload, setting: Setting) -> float:
    """What a micro-batch keeps for the backward, and parameters with all that belongs to them."""
    timed = Timing(shared).at(setting.rows, setting.device, setting.dtype, setting.links[0])
    return float(timed.saved_bytes.sum()) + setting.state_factor * shared.parameter_bytes
