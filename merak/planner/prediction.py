"""What a training step takes under a plan: seconds, and bytes of each rank.

The plan's stages are cut as an engine would cut them, from prices on the devices that each stage is on. Then the
schedule is simulated, event by event: what ranks compute, with the messages of those that share layers; values and
gradients between stages; the sum of gradients over replicas. The optimizer comes last.

- *Between stages* a value crosses once, in shares of the ranks that send it. All replicas that are on one host send
  over its link to the network at the same time, and share it. The ranks of the next stage gather what came in shares.
- *Gradients* of a micro-batch are added to those of the ones before, which the memory's bandwidth bounds. They are
  summed over replicas as soon as a stage has them (gradient_sums.py).
- *The optimizer* reads and writes parameters, gradients and its state: bound by the memory's bandwidth.
"""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from merak.graph.cutting import Cut, GraphCosts, StageCost
from merak.pipeline.simulation import Costs, Simulation
from merak.planner.cluster import Cluster
from merak.planner.collective_times import LinearTime
from merak.planner.device import Device
from merak.planner.gradient_sums import reduction_s
from merak.planner.memory_over_time import StageMemory, memory_over_time, stage_memories
from merak.planner.plan import Plan
from merak.planner.prices import Place, Prices, Way, ways_of
from merak.planner.stage_cut import compute_order, cut_for, forced_cuts, solver
from merak.planner.width_costs import mixed

_STATES = 4.0
"""Bytes of parameters, gradients and Adam's two moments, for each byte of parameters."""
_MOVED = 7.0
"""Bytes that Adam reads and writes, for each byte of parameters: reads all four, writes all but gradients."""
_ADDED = 3.0
"""Bytes that an addition of gradients reads and writes, for each byte of parameters."""


@dataclass(frozen=True)
class Prediction:
    """A step, predicted.

    Attributes:
        plan: of what.
        rows: of a micro-batch.
        cut: its stages.
        boundaries: positions in the trunk where stages begin, but the first.
        simulation: of the schedule, without the optimizer.
        reduction_s: by pipeline rank, the sum of gradients over replicas.
        travel_s: by stage, what messages within its layers take of a micro-batch; not known in segments.
        optimizer_s: of the slowest rank.
        memory_bytes, budget_bytes: by pipeline rank, what its ranks need, and may have.
        stage_memories: of what that consists; not known in segments.
    """

    plan: Plan
    rows: float
    cut: Cut
    boundaries: tuple[int, ...]
    simulation: Simulation
    reduction_s: tuple[float, ...]
    travel_s: tuple[float, ...]
    optimizer_s: float
    memory_bytes: tuple[float, ...]
    budget_bytes: tuple[float, ...]
    stage_memories: tuple[StageMemory, ...] = ()

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.simulation.seconds + self.optimizer_s

    def memory_over_time(self, pp_rank: int) -> list[tuple[float, float]]:
        """From the begin of a step on: seconds, and the bytes of a rank that are alive from then on. Not known in
        segments."""
        rank_of = [stage.rank for stage in self.cut.stages]
        return memory_over_time(self.simulation, self.stage_memories, rank_of, pp_rank)


def predict(
    plan: Plan, prices: Prices, rows: int, boundaries: Sequence[int] | None = None, *, in_segments: bool = False
) -> Prediction:
    """What a step of a batch of so many rows, of all replicas together, takes.

    Args:
        boundaries: positions in the trunk where stages begin, but the first; by default what `plan.cuts` name, or what
            is best.
        in_segments: reckon with whole segments between the points of `prices`, which is faster; boundaries are numbers
            of segments then, and `plan.cuts` is not read.

    Raises:
        DoesNotFitError: a rank's memory does not suffice, however stages are cut.
        CaptureError: a name in `plan.cuts` is unknown, or no boundary may lie there.
        ValueError: the plan is for another number of devices, or needs more rows.
    """
    prices.check_plan(plan, rows)
    of_micro_batch = rows / (plan.dp * plan.microbatches)
    order = compute_order(plan)
    kinds = [kind_of_rank(plan, prices, rank) for rank in order.stage_to_rank]
    teams = [plan.team(rank) for rank in order.stage_to_rank]
    timed = {
        kind: prices.timed(kind[0], of_micro_batch, team) for kind, team in dict(zip(kinds, teams, strict=True)).items()
    }
    costs = {kind: one.in_segments(prices.points) if in_segments else one.costs() for kind, one in timed.items()}
    budget, state_factor = budgets(plan, prices), states(owners(plan.dp, plan.data_parallel))
    latency, per_byte = slowest_link(plan, prices)
    solve = solver(
        plan,
        order,
        memory=budget,
        state_factor=state_factor,
        bandwidth=1 / per_byte,
        latency=latency,
    )
    if boundaries is None:
        forced = [] if in_segments else forced_cuts(plan, prices.workload.prepared.cuttable)
        boundaries, cut = cut_for(solve, costs, kinds, forced)
        of_stages = mixed(costs, kinds, boundaries)
    else:
        of_stages = mixed(costs, kinds, boundaries)
        cut = solve(of_stages, boundaries)
    number = functools.partial(bisect_right, prices.points) if in_segments else int
    reduction = [reduction_s(plan, prices, rows, rank, cut, number) for rank in range(plan.pp)]
    simulation = simulate(plan, prices, cut, of_stages, boundaries, reduction)
    spans = [] if in_segments else [slice(stage.first, stage.end) for stage in cut.stages]
    found = Prediction(
        plan=plan,
        rows=of_micro_batch,
        cut=cut,
        boundaries=tuple(boundaries),
        simulation=simulation,
        reduction_s=tuple(reduction),
        travel_s=tuple(float(timed[kind].travel_s[span].sum()) for kind, span in zip(kinds, spans, strict=False)),
        optimizer_s=optimizer_s(plan, prices, cut),
        memory_bytes=cut.memory_bytes,
        budget_bytes=budget,
    )
    if in_segments:
        return found
    memories = stage_memories(plan, prices, of_micro_batch, cut, state_factor, order.in_flight)
    found = replace(found, stage_memories=tuple(memories))
    peaks = (max(nbytes for _, nbytes in found.memory_over_time(rank)) for rank in range(plan.pp))
    return replace(found, memory_bytes=tuple(peaks))


def simulate(
    plan: Plan,
    prices: Prices,
    cut: Cut,
    costs: GraphCosts,
    boundaries: Sequence[int],
    reduction: Sequence[float],
) -> Simulation:
    """The schedule of a step, event by event.

    Args:
        costs: of the stages where they are.
        reduction: seconds, by pipeline rank.
    """
    rank_of = compute_order(plan).stage_to_rank
    crossing = crossing_bytes(costs, boundaries)
    edges = [(*edge, back > 0) for edge, (_, back) in sorted(crossing.items())]
    schedule = plan.make_schedule(edges, plan.microbatches, [stage.recompute_s > 0 for stage in cut.stages])
    last = {rank: stage for stage, rank in enumerate(rank_of)}
    weight_s = [sum(node.backward_weight_s for node in costs.nodes[stage.first : stage.end]) for stage in cut.stages]
    added_s = [_accumulation_s(plan, prices, stage) for stage in cut.stages]
    inputs_s = [max(0.0, stage.backward_s - w) for stage, w in zip(cut.stages, weight_s, strict=True)]
    return schedule.simulate(
        Costs(
            forward=[stage.forward_s for stage in cut.stages],
            backward=[stage.backward_s + added for stage, added in zip(cut.stages, added_s, strict=True)],
            backward_input=inputs_s,
            backward_weight=[w + added for w, added in zip(weight_s, added_s, strict=True)],
            recompute=[stage.recompute_s for stage in cut.stages],
            reduction=[reduction[rank] if last[rank] == stage else 0.0 for stage, rank in enumerate(rank_of)],
            message={edge: message_s(plan, prices, rank_of, edge, there) for edge, (there, _) in crossing.items()},
            gradient_message={
                edge: message_s(plan, prices, rank_of, edge[::-1], back) for edge, (_, back) in crossing.items()
            },
            activation=[stage.saved_bytes + stage.input_bytes for stage in cut.stages],
            checkpoint=[stage.kept_bytes + stage.input_bytes for stage in cut.stages],
        )
    )


def accumulation_s_per_byte(device: Device, microbatches: int) -> float:
    """Of parameters, what adding up the gradients of a step's micro-batches takes: the first has none to add to."""
    return _ADDED * (microbatches - 1) / device.memory_bytes_per_s


def _accumulation_s(plan: Plan, prices: Prices, stage: StageCost) -> float:
    """Of a micro-batch, on average."""
    device = prices.cluster.device(plan.team(stage.rank)[0])
    return accumulation_s_per_byte(device, plan.microbatches) * stage.parameter_bytes / plan.microbatches


def crossing_bytes(costs: GraphCosts, boundaries: Sequence[int]) -> dict[tuple[int, int], tuple[float, float]]:
    """By producing and consuming stage: bytes of values, and of gradients that come back."""
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for value in costs.values:
        stage = bisect_right(boundaries, value.producer)
        for other in {bisect_right(boundaries, consumer) for consumer in value.consumers} - {stage}:
            there, back = found.get((stage, other), (0.0, 0.0))
            found[stage, other] = there + value.nbytes, back + value.nbytes * value.gradient
    return found


def message_s(plan: Plan, prices: Prices, rank_of: Sequence[int], edge: tuple[int, int], nbytes: float) -> float:
    """Of what one replica sends from a stage to another."""
    if rank_of[edge[0]] == rank_of[edge[1]] or not nbytes:
        return 0.0
    cluster = prices.cluster
    there = plan.team(rank_of[edge[1]])
    gathered = cluster.seconds("all_gather", nbytes, there) if len(there) > 1 else 0.0
    here = (plan.team(rank_of[edge[0]], replica) for replica in range(plan.dp))
    return crossing(cluster, here, there).of(nbytes) + gathered


def crossing(cluster: Cluster, teams: Iterable[Sequence[int]], there: Sequence[int]) -> LinearTime:
    """What a value takes from the first of these teams, those of a stage's replicas in their order, to another team,
    by its bytes."""
    teams = iter(teams)
    here = next(teams)
    if cluster.host_of(here[0]) == cluster.host_of(there[0]):
        latency, per_byte = cluster.linear_time("send", [here[0], there[0]])
        return LinearTime(latency, per_byte / min(len(here), len(there)))
    on_host = itertools.takewhile(lambda team: cluster.host_of(team[0]) == cluster.host_of(here[0]), teams)
    together = 1 + sum(1 for _ in on_host)
    latency, per_byte = cluster.linear_time("send", [here[0], there[0]], together)
    return LinearTime(latency, per_byte / len({cluster.host_of(rank) for rank in here}))


def optimizer_s(plan: Plan, prices: Prices, cut: Cut) -> float:
    """Of the slowest rank."""
    seconds = [0.0] * plan.pp
    for stage in cut.stages:
        device = prices.cluster.device(plan.team(stage.rank)[0])
        seconds[stage.rank] += optimizer_s_per_byte(device, owners(plan.dp, plan.data_parallel)) * stage.parameter_bytes
    return max(seconds)


def optimizer_s_per_byte(device: Device, replicas: int) -> float:
    """Of parameters, where so many replicas share its work."""
    return _MOVED / replicas / device.memory_bytes_per_s


def owners(dp: int, data_parallel: str) -> int:
    """Among how many replicas the optimizer's work and state are divided."""
    return dp if data_parallel == "zero1" else 1


def states(replicas: int) -> float:
    """Bytes of parameters, gradients and the optimizer's state, for each byte of parameters, where so many replicas
    share the latter."""
    return 2 + (_STATES - 2) / replicas


def kind_of_rank(plan: Plan, prices: Prices, pp_rank: int) -> tuple[Way, Place]:
    """What a pipeline rank's prices depend on."""
    return ways_of(plan)[pp_rank], prices.place(plan.team(pp_rank))


def budgets(plan: Plan, prices: Prices) -> tuple[float, ...]:
    """By pipeline rank, the least that any of its devices may use."""
    found = []
    for rank in range(plan.pp):
        ranks = [one for replica in range(plan.dp) for one in plan.team(rank, replica)]
        found.append(float(min(prices.cluster.memory_bytes(one) for one in ranks)))
    return tuple(found) if plan.memory is None else tuple(min(one, plan.memory) for one in found)


def slowest_link(plan: Plan, prices: Prices) -> tuple[float, float]:
    """Latency, and seconds for each byte, of the slowest way from one pipeline rank to the next."""
    order = list(range(plan.pp))
    two = [
        [message_s(plan, prices, order, (rank, rank + 1), nbytes) for nbytes in (1.0, 1e9)]
        for rank in range(plan.pp - 1)
    ]
    slope, few = max((((many - few) / 1e9, few) for few, many in two), default=(1e-15, 0.0))
    return few, slope
