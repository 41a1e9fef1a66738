"""What an engine is about to do, in words: the plan, its stages, and a chart of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from merak.graph.cutting import Cut
from merak.graph.losses import Terms
from merak.graph.stages import Stage
from merak.pipeline.schedule import Schedule
from merak.pipeline.simulation import Costs, Simulation
from merak.planner.plan import Plan
from merak.resharding.explaining import seconds_text

_IDLE = 0.05
"""Of the work of the busiest stage; a stage with less is said to be idle."""


def explain(plan: Plan, cut: Cut, stages: Sequence[Stage], terms: Terms, schedule: Schedule, width: int) -> str:
    """The text of `Engine.explain`."""
    return "\n".join(_lines(plan, cut, stages, terms, schedule, width))


def simulate(cut: Cut, schedule: Schedule) -> Simulation:
    """A step by the model that the stages were cut by. Messages take what the boundaries' bytes take."""
    stages = cut.stages
    receive = {
        (producer, consumer): stages[consumer].receive_s / max(1, sum(edge[1] == consumer for edge in schedule.edges))
        for producer, consumer, _ in schedule.edges
    }
    return schedule.simulate(
        Costs(
            forward=[stage.forward_s for stage in stages],
            backward=[stage.backward_s for stage in stages],
            recompute=[stage.recompute_s for stage in stages],
            message=receive,
        )
    )


def _lines(
    plan: Plan, cut: Cut, stages: Sequence[Stage], terms: Terms, schedule: Schedule, width: int
) -> Iterator[str]:
    step = simulate(cut, schedule)
    yield (
        f"plan: {plan.dp} replicas x {plan.tp} tensor-parallel x {plan.pp} pipeline ranks, {plan.n_stages} stages; "
        f"{plan.microbatches} micro-batches a replica, schedule {plan.schedule}, gradients by {plan.data_parallel}, "
        f"{plan.precision}"
    )
    yield cut.explain()
    for stage in stages:
        if stage.sent:
            values = ", ".join(
                f"{value.name} {list(value.fake.shape)} to {' and '.join(map(str, value.consumers))}"
                for value in stage.sent
            )
            yield f"stage {stage.index} sends {values}"
    most = max(stage.work_s for stage in cut.stages)
    if idle := [str(number) for number, stage in enumerate(cut.stages) if stage.work_s < _IDLE * most]:
        yield f"stages {', '.join(idle)} have next to nothing to do: fewer stages, or `cuts`, would serve as well"
    if terms.inexact:
        yield f"averaged over micro-batches, since it does not add up: {'; '.join(terms.inexact)}"
    yield (
        f"a step by simulation of the schedule, where messages travel meanwhile: {seconds_text(step.seconds)}, "
        f"{100 * step.bubble:.0f} % of it idle"
    )
    yield step.chart(width)
