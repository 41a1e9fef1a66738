"""The stages that a plan comes to, and what they recompute."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from merak.graph.costs import DeviceModel, graph_costs, measure
from merak.graph.cutting import DoesNotFitError, cut
from merak.graph.errors import CaptureError
from merak.graph.gradients import nodes_with_gradients
from merak.graph.prepare import Prepared, prepare
from merak.pipeline.microbatches import bind
from merak.planner.plan import Plan
from merak.planner.stage_cut import BANDWIDTH, LATENCY, Candidate, ChosenCut, choose_cut
from merak.planner.width_costs import by_operation, mixed
from merak.sharding.divided import Divided
from merak.sharding.parts import Place
from merak.sharding.width import Width
from tests.engine import zoo


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(zoo.make("gpt2"), zoo.batch_of("gpt2", 4, 0))


def cut_by(prepared: Prepared, plan: Plan) -> ChosenCut:
    return choose_cut(
        {1: candidate(Divided(prepared, prepared), zoo.batch_of("gpt2", 4, 0))}, plan, trainable(prepared)
    )


def candidate(divided: Divided, batch: zoo.Batch) -> Candidate:
    captured = divided.prepared.captured
    sizes = bind(captured, batch, 0).sizes
    return Candidate(divided, measure(captured, sizes), sizes)


def trainable(prepared: Prepared) -> set[str]:
    return {key for kind, key in prepared.captured.sources.values() if kind == "parameter"}


def test_memory_decides_how_much_is_recomputed(prepared: Prepared) -> None:
    roomy = cut_by(prepared, Plan(pp=2, microbatches=8, schedule="gpipe", recompute="auto"))
    assert roomy.recomputed == [0, 0]
    memory = int(0.6 * max(roomy.cut.memory_bytes))  # all micro-batches are in flight at once
    tight = cut_by(prepared, Plan(pp=2, microbatches=8, schedule="gpipe", recompute="auto", memory=memory))
    assert sum(tight.recomputed) > 0
    assert max(tight.cut.memory_bytes) <= memory
    assert tight.cut.step_s > roomy.cut.step_s
    with pytest.raises(DoesNotFitError, match="misses"):
        cut_by(prepared, Plan(pp=2, microbatches=4, recompute="auto", memory=1000))


def test_stages_begin_where_the_plan_says(prepared: Prepared) -> None:
    chosen = cut_by(prepared, Plan(pp=2, microbatches=2, cuts=("transformer.h.2",)))
    assert chosen.cut.stages[1].first == chosen.boundaries[0]
    first = prepared.cuttable.trunk[chosen.boundaries[0]]
    assert any(name.endswith("transformer.h.2") for name, _ in first.meta["nn_module_stack"].values())
    with pytest.raises(CaptureError, match=r"no module or operation 'transformer.h.9'"):
        cut_by(prepared, Plan(pp=2, microbatches=2, cuts=("transformer.h.9",)))


def test_the_last_stage_of_a_shifted_schedule_recomputes_nothing(prepared: Prepared) -> None:
    chosen = cut_by(prepared, Plan(pp=2, microbatches=4, schedule="shifted", recompute=1.0))
    assert chosen.recomputed == [chosen.boundaries[0], 0]


def test_more_stages_than_places_to_cut_are_refused(prepared: Prepared) -> None:
    with pytest.raises(CaptureError, match="cannot be cut into 400 stages"):
        cut_by(prepared, Plan(pp=400, microbatches=1))


# Stages of different widths ------------------------------------------------------------------------------------------


class Equal(torch.nn.Module):
    """Equal layers."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 64))
            for _ in range(layers)
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        for layer in self.layers:
            x = x + layer(x)
        return {"loss": x.square().mean()}


def candidates_for(whole: Prepared, plan: Plan, batch: zoo.Batch) -> dict[int, Candidate]:
    found = {}
    for ranks in set(plan.widths):
        divided = Divided(whole, whole)
        if ranks > 1:
            divided = Width(ranks, [], trainable(whole), Place(0, ranks, "")).divide(whole, [])
        found[ranks] = candidate(divided, batch)
    return found


@pytest.mark.parametrize("widths", [(1, 3), (4, 1), (2, 3)])
def test_boundaries_of_stages_of_different_widths_are_the_best(widths: tuple[int, int]) -> None:
    batch = {"x": torch.ones(2, 64)}
    whole = prepare(Equal(12), batch)
    plan, names = Plan(tp=widths, pp=2, microbatches=8), trainable(whole)
    candidates = candidates_for(whole, plan, batch)
    chosen = choose_cut(candidates, plan, names)
    costs = {}
    for ranks, one in candidates.items():
        prepared = one.divided.prepared
        gradients = nodes_with_gradients(prepared.captured, names)
        of_rank = graph_costs(prepared.cuttable, one.measured, one.sizes, gradients, DeviceModel())
        costs[ranks] = by_operation(of_rank, one.divided)
    seconds = {}
    for boundary, may in enumerate(whole.cuttable.may_cut):
        if may:
            of_stages = mixed(costs, widths, [boundary])
            found = cut(
                of_stages,
                2,
                recompute=0.0,
                boundaries=[boundary],
                micro_batches=8,
                bandwidth=BANDWIDTH,
                latency=LATENCY,
            )
            seconds[boundary] = found.step_s
    assert len(seconds) > 12
    assert chosen.cut.step_s == pytest.approx(min(seconds.values()))
    assert seconds[chosen.boundaries[0]] == pytest.approx(min(seconds.values()))
    narrow = chosen.boundaries[0] if widths[0] < widths[1] else len(whole.cuttable.trunk) - chosen.boundaries[0]
    assert narrow < len(whole.cuttable.trunk) / 2, "wider stages do more"


def test_stages_of_different_widths_recompute_as_memory_asks() -> None:
    batch = {"x": torch.ones(512, 64)}
    whole, plan = prepare(Equal(4), batch), Plan(tp=(1, 2), pp=2, microbatches=8, schedule="gpipe", recompute="auto")
    candidates, names = candidates_for(whole, plan, batch), trainable(whole)
    roomy = choose_cut(candidates, plan, names)
    assert roomy.recomputed == [0, 0]
    memory = int(0.6 * max(roomy.cut.memory_bytes))
    tight = choose_cut(candidates, dataclasses.replace(plan, memory=memory), names)
    assert max(tight.cut.memory_bytes) <= memory
    assert sum(tight.recomputed) > 0
    with pytest.raises(DoesNotFitError, match="misses"):
        choose_cut(candidates, dataclasses.replace(plan, memory=1000), names)


def test_stages_of_different_widths_begin_where_the_plan_says() -> None:
    batch = {"x": torch.ones(2, 64)}
    whole = prepare(Equal(6), batch)
    plan = Plan(tp=(1, 2), pp=2, cuts=("layers.1",))
    chosen = choose_cut(candidates_for(whole, plan, batch), plan, trainable(whole))
    first = whole.cuttable.trunk[chosen.boundaries[0]]
    assert any(name.endswith("layers.1") for name, _ in first.meta["nn_module_stack"].values())
