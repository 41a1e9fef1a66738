"""What a rank's memory holds over a step of its schedule, as it is simulated.

- Parameters, gradients and the optimizer's state are there all along.
- A stage keeps a micro-batch's activations from its forward to the end of its backward; where it recomputes, its
  checkpoint until it does.
- Where gradients of weights come later than those of inputs (I, W), what they need stays between the two: what each
  product was given, and the gradient of what it gave.
- In a backward, gradients and what saved tensors keep alive are beside all that; csrc/graph/stage_memory.h calls it W.

A cut is chosen by bounds on this that need no simulation: all stages of a rank hold their most at once there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from merak.graph.cutting import Cut
from merak.graph.weight_gradients import given_and_gives
from merak.pipeline.simulation import ActionSpan, Simulation
from merak.planner.plan import Plan
from merak.planner.prices import Prices


@dataclass(frozen=True)
class StageMemory:
    """Bytes of a stage.

    Attributes:
        state: of parameters, gradients, and the optimizer's state.
        whole, checkpoint: of a micro-batch between forward and backward, and where the stage recomputes.
        for_weights: of a micro-batch between I and W.
        in_backward: beside all that.
    """

    state: float
    whole: float
    checkpoint: float
    for_weights: float
    in_backward: float


def stage_memories(
    plan: Plan, prices: Prices, rows: float, cut: Cut, state_factor: float, in_flight: Sequence[int]
) -> list[StageMemory]:
    """Of each stage.

    Args:
        rows: of a micro-batch.
        state_factor, in_flight: that the stages were cut with.
    """
    found = []
    for stage, alive in zip(cut.stages, in_flight, strict=True):
        state = state_factor * stage.parameter_bytes
        whole, checkpoint = stage.saved_bytes + stage.input_bytes, stage.kept_bytes + stage.input_bytes
        working = stage.memory_bytes - state - whole - (alive - 1) * checkpoint
        width = plan.widths[stage.rank]
        between = for_weights_bytes(plan, prices, rows, range(stage.first, stage.end), width)
        found.append(StageMemory(state, whole, checkpoint, between, max(0.0, working)))
    return found


def for_weights_bytes(plan: Plan, prices: Prices, rows: float, positions: range, width: int) -> float:
    """What gradients of weights of the operations at these positions in the trunk need, on each of the ranks that share
    them."""
    workload = prices.workload
    shares = prices.shared(width, plan.sequence_parallel).shares
    nodes = {}
    for position in positions:
        node = workload.prepared.cuttable.trunk[position]
        for one in given_and_gives(workload.prepared.captured, node):
            # Several products may be given the same, which is there once; a gradient is each one's own.
            key = (one, None if one is not node else node)
            nodes[key] = workload.nbytes[one].at(rows) * shares[node].touched.get(one, 1.0)
    return sum(nodes.values())


def memory_over_time(
    simulation: Simulation, stages: Sequence[StageMemory], rank_of: Sequence[int], pp_rank: int
) -> list[tuple[float, float]]:
    """From the begin of a step on: seconds, and the bytes of a rank that are alive from then on.

    Args:
        rank_of: by stage.
    """
    mine = [stage for stage, rank in enumerate(rank_of) if rank == pp_rank]
    alive = sum(stages[stage].state for stage in mine)
    found = [(0.0, alive)]
    for span in simulation.spans(pp_rank):
        for seconds, change, beside in _changes(simulation, stages[span.action.stage], span):
            alive += change
            found.append((seconds, alive + beside))
    found.append((simulation.seconds, alive))
    return found


def _changes(simulation: Simulation, stage: StageMemory, span: ActionSpan) -> Iterator[tuple[float, float, float]]:
    """When what comes and goes, and what is beside it from then on."""
    action, start, end = span
    if action.kind == "F":
        few = stage.checkpoint < stage.whole and simulation.schedule.checkpointed(action.stage, action.microbatch)
        yield start, stage.checkpoint if few else stage.whole, 0.0
    elif action.kind == "R":
        yield start, stage.whole - stage.checkpoint, 0.0
    elif action.kind in ("B", "I"):
        yield start, 0.0, stage.in_backward
        yield end, (stage.for_weights if action.kind == "I" else 0.0) - stage.whole, 0.0
    elif action.kind == "W":
        yield end, -stage.for_weights, 0.0
