"""Where a plan's stages begin, and what each recomputes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import fx

from merak.engine.plan import Plan
from merak.graph.costs import DeviceModel, Measured, graph_costs
from merak.graph.cutting import Cut, DoesNotFitError, cut
from merak.graph.errors import CaptureError
from merak.graph.gradients import nodes_with_gradients
from merak.graph.prepare import Prepared
from merak.graph.stages import Cuttable
from merak.pipeline.schedule import KINDS, Schedule

BANDWIDTH, LATENCY = 1.196e8, 50e-6
"""Bytes/s and seconds of a link between stages: Ethernet of 1 Gbit/s. They keep boundaries where few values cross."""


@dataclass(frozen=True)
class ChosenCut:
    """Positions in the trunk where stages begin (but the first), and how many operations each recomputes."""

    boundaries: list[int]
    recomputed: list[int]
    cut: Cut


def choose_cut(
    prepared: Prepared, measured: Measured, sizes: dict[str, int], plan: Plan, trainable: set[str]
) -> ChosenCut:
    """Solves for both together.

    Raises:
        ValueError: a rank's memory does not suffice, and what would; or there are too few places to cut.
        CaptureError: a name in `plan.cuts` is unknown, or no boundary may lie there.
    """
    cuttable = prepared.cuttable
    costs = graph_costs(cuttable, measured, sizes, nodes_with_gradients(prepared.captured, trainable), DeviceModel())
    order = _compute_order(plan)
    forced = [] if plan.cuts is None else [_position(cuttable, name) for name in plan.cuts]
    try:
        found = cut(
            costs,
            plan.n_stages,
            recompute="auto" if plan.recompute == "auto" else _shares(plan),
            boundaries=forced,
            micro_batches=plan.microbatches,
            rank_of_stage=order.stage_to_rank,
            in_flight=_in_flight(order),
            memory=plan.memory,
            bandwidth=BANDWIDTH,
            latency=LATENCY,
            hides_communication=plan.schedule.startswith("eager"),
        )
    except DoesNotFitError:
        raise
    except ValueError as error:
        raise CaptureError(f"the model cannot be cut into {plan.n_stages} stages: {error}") from error
    if plan.recompute != "auto":  # what a user has chosen is not to be compared with what was solved for
        found = replace(found, uniform_s=None, uniform_share=None)
    return ChosenCut(list(found.boundaries), list(found.recomputed), found)


def _shares(plan: Plan) -> list[float]:
    """Of each stage's forward, what is recomputed. The last of a shifted schedule never is."""
    shares = plan.recompute_of_stages()
    return [*shares[:-1], 0.0] if plan.schedule == "shifted" else shares


def _compute_order(plan: Plan) -> Schedule:
    if plan.schedule not in KINDS:
        return Schedule.from_csv(plan.schedule)
    return Schedule.make(
        plan.schedule,
        stages=plan.n_stages,
        ranks=plan.pp,
        microbatches=plan.microbatches,
        recompute=False,
        communication=False,
        reduction=False,
    )


def _in_flight(order: Schedule) -> list[int]:
    """By stage: the most micro-batches between forward and the end of backward."""
    most = [0] * order.n_stages
    for rank in range(order.n_ranks):
        live: dict[int, set[int]] = {}
        delayed = {(one.stage, one.microbatch) for one in order.actions(rank) if one.kind == "W"}
        for action in order.actions(rank):
            here = live.setdefault(action.stage, set())
            if action.kind == "F":
                here.add(action.microbatch)
                most[action.stage] = max(most[action.stage], len(here))
            elif action.kind == "W" or (action.kind == "B" and (action.stage, action.microbatch) not in delayed):
                here.discard(action.microbatch)
    return most


def _position(cuttable: Cuttable, name: str) -> int:
    """Where an operation, or the first operation of a module, is in the trunk; the next place to cut before it."""
    for position, node in enumerate(cuttable.trunk):
        if node.name == name or name in _modules(node):
            if position and cuttable.may_cut[position]:
                return position
            raise CaptureError(f"no boundary may lie before {name} ({node.name})")
    modules = sorted({module for node in cuttable.trunk for module in _modules(node) if module})
    raise CaptureError(f"there is no module or operation {name!r} to cut at; modules are {', '.join(modules[:40])}")


def _modules(node: fx.Node) -> Sequence[str]:
    """Names of the modules that an operation is in, by the captured model."""
    stack = node.meta.get("nn_module_stack") or {}
    return [str(path).removeprefix("model.") for path, _ in stack.values()]
