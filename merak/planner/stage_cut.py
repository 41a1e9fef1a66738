"""Where a plan's stages begin, and what each recomputes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, Unpack

from torch import fx

from merak.graph.costs import DeviceModel, Measured, graph_costs
from merak.graph.cutting import Conditions, Cut, DoesNotFitError, GraphCosts, cut
from merak.graph.errors import CaptureError
from merak.graph.gradients import nodes_with_gradients
from merak.graph.stages import Cuttable
from merak.pipeline.schedule import KINDS, Schedule
from merak.planner.plan import Plan
from merak.planner.width_costs import by_operation, mixed
from merak.sharding.divided import Divided

BANDWIDTH, LATENCY = 1.196e8, 50e-6
"""Bytes/s and seconds of a link between stages: Ethernet of 1 Gbit/s. They keep boundaries where few values cross."""


Solver = Callable[[GraphCosts, Sequence[int]], Cut]
"""From costs, and boundaries that have to be, to a cut."""
Kind = TypeVar("Kind")
_ROUNDS = 8
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Of looking for a cut where pipeline ranks have different widths; and how far boundaries move in one."""


@dataclass(frozen=True)
class ChosenCut:
    """Positions in the whole trunk where stages begin (but the first), and how many of its operations each recomputes;
    what that costs."""

    boundaries: list[int]
    recomputed: list[int]
    cut: Cut


@dataclass(frozen=True)
class Candidate:
    """A graph, measured, of the ranks that share layers with so many others."""

    divided: Divided
    measured: Measured
    sizes: dict[str, int]


def choose_cut(candidates: Mapping[int, Candidate], plan: Plan, trainable: set[str]) -> ChosenCut:
    """Solves for both together.

    Args:
        candidates: by how many ranks share layers, for all numbers of the plan.

    Raises:
        ValueError: a rank's memory does not suffice, and what would; or there are too few places to cut.
        CaptureError: a name in `plan.cuts` is unknown, or no boundary may lie there.
    """
    order = compute_order(plan)
    solve = solver(plan, order)
    one = next(iter(candidates.values())).divided
    forced = forced_cuts(plan, one.whole.cuttable)
    costs = {ranks: _costs(one, trainable) for ranks, one in candidates.items()}
    try:
        if len(candidates) == 1:
            (of_one,) = costs.values()
            found = _in_whole(solve(of_one, [one.begin(position) for position in forced]), one)
        else:
            of_whole = {ranks: by_operation(costs[ranks], each.divided) for ranks, each in candidates.items()}
            boundaries, best = cut_for(solve, of_whole, [plan.widths[rank] for rank in order.stage_to_rank], forced)
            found = ChosenCut(boundaries, list(best.recomputed), best)
    except DoesNotFitError:
        raise
    except ValueError as error:
        raise CaptureError(f"the model cannot be cut into {plan.n_stages} stages: {error}") from error
    if plan.recompute != "auto":  # what a user has chosen is not to be compared with what was solved for
        found = replace(found, cut=replace(found.cut, uniform_s=None, uniform_share=None))
    return found


def solver(plan: Plan, order: Schedule, **conditions: Unpack[Conditions]) -> Solver:
    """What solves for a plan's cut.

    Args:
        order: the plan's `compute_order`.
        conditions: of the ranks and their links, where they are known; else the plan's memory, and slow links.
    """
    known = Conditions(
        micro_batches=plan.microbatches,
        rank_of_stage=order.stage_to_rank,
        in_flight=order.in_flight,
        hides_communication=plan.schedule.startswith("eager"),
        memory=plan.memory,
        bandwidth=BANDWIDTH,
        latency=LATENCY,
    )
    known.update(conditions)

    def solve(costs: GraphCosts, boundaries: Sequence[int]) -> Cut:
        recompute = "auto" if plan.recompute == "auto" else _shares(plan)
        return cut(costs, plan.n_stages, recompute=recompute, boundaries=boundaries, **known)

    return solve


def _costs(one: Candidate, trainable: set[str]) -> GraphCosts:
    prepared = one.divided.prepared
    gradients = nodes_with_gradients(prepared.captured, trainable)
    costs = graph_costs(prepared.cuttable, one.measured, one.sizes, gradients, DeviceModel())
    return replace(costs, may_cut=tuple(one.divided.may_cut))


def _in_whole(found: Cut, divided: Divided) -> ChosenCut:
    """A cut of a rank's graph, in positions of the whole one."""
    begins = [0, *(divided.position(boundary) for boundary in found.boundaries), len(divided.whole.cuttable.trunk)]
    ends = [divided.position(stage.first + stage.recomputed) for stage in found.stages]
    recomputed = [min(end, after) - begin for begin, end, after in zip(begins, ends, begins[1:], strict=False)]
    return ChosenCut(begins[1:-1], recomputed, found)


def cut_for(
    solve: Solver, costs: Mapping[Kind, GraphCosts], kinds: Sequence[Kind], forced: Sequence[int]
) -> tuple[list[int], Cut]:
    """Boundaries, and the cut, for stages on ranks of different kinds. What an operation costs depends on the stage
    that it will be in: so it is said to be where it was last, and the cut solved for, until nothing moves; then
    boundaries are moved a little, as long as that helps. The best that was seen.

    Args:
        costs: of the whole graph's operations, by kind of rank: how many share its layers, say.
        kinds: by stage.
        forced: boundaries that have to be.
    """
    if len(costs) == 1:
        found = solve(next(iter(costs.values())), forced)
        return list(found.boundaries), found
    count = len(next(iter(costs.values())).nodes)
    boundaries = list(forced) or [count * stage // len(kinds) for stage in range(1, len(kinds))]
    for _ in range(_ROUNDS):
        found = _or_closest(solve, mixed(costs, kinds, boundaries), forced)
        stays, boundaries = list(found.boundaries) == boundaries, list(found.boundaries)
        if stays:
            break

    @functools.cache
    def at(boundaries: tuple[int, ...]) -> Cut:
        return _or_closest(solve, mixed(costs, kinds, boundaries), boundaries)

    best = at(tuple(boundaries))
    may_cut = mixed(costs, kinds, boundaries).may_cut
    for _ in range(0 if forced else _ROUNDS):
        better = min(map(at, _moved(best.boundaries, may_cut)), key=_rank, default=best)
        if _rank(better) >= _rank(best):
            break
        best = better
    if not best.fits:
        solve(mixed(costs, kinds, best.boundaries), best.boundaries)  # which says what would
    return list(best.boundaries), best


def forced_cuts(plan: Plan, cuttable: Cuttable) -> list[int]:
    """The positions in the trunk that a plan's `cuts` name.

    Raises:
        CaptureError: a name is unknown, or no boundary may lie there.
    """
    return [_position(cuttable, name) for name in plan.cuts or ()]


def _rank(cut: Cut) -> tuple[float, float]:
    """The less, the better: first of all it must fit."""
    return sum(cut.missing_bytes), cut.step_s


def _moved(boundaries: Sequence[int], may_cut: Sequence[bool]) -> Iterator[tuple[int, ...]]:
    """With one boundary elsewhere."""
    for number, boundary in enumerate(boundaries):
        after = boundaries[number + 1] if number + 1 < len(boundaries) else len(may_cut)
        for place in (boundary + way * step for step in _STEPS for way in (-1, 1)):
            if (boundaries[number - 1] if number else 0) < place < after and may_cut[place]:
                yield (*boundaries[:number], place, *boundaries[number + 1 :])


def _or_closest(solve: Solver, costs: GraphCosts, forced: Sequence[int]) -> Cut:
    """The cut, or the one that misses the least."""
    try:
        return solve(costs, forced)
    except DoesNotFitError as error:
        return error.cut


def _shares(plan: Plan) -> list[float]:
    """Of each stage's forward, what is recomputed. The last of a shifted schedule never is."""
    shares = plan.recompute_of_stages()
    return [*shares[:-1], 0.0] if plan.schedule == "shifted" else shares


def compute_order(plan: Plan) -> Schedule:
    """What ranks compute in which order, and which stages each has."""
    if plan.schedule not in KINDS:
        return Schedule.from_csv(plan.schedule)
    return _compute_order(plan.schedule, plan.n_stages, plan.pp, plan.microbatches)


@functools.lru_cache(16)
def _compute_order(kind: str, stages: int, ranks: int, microbatches: int) -> Schedule:
    return Schedule.make(
        kind,
        stages=stages,
        ranks=ranks,
        microbatches=microbatches,
        recompute=False,
        communication=False,
        reduction=False,
    )


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
