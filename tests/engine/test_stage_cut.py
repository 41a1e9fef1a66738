"""The stages that a plan comes to, and what they recompute."""

from __future__ import annotations

import pytest

from merak.engine.plan import Plan
from merak.engine.stage_cut import ChosenCut, choose_cut
from merak.graph.costs import measure
from merak.graph.cutting import DoesNotFitError
from merak.graph.errors import CaptureError
from merak.graph.prepare import Prepared, prepare
from merak.pipeline.microbatches import bind
from tests.engine import zoo


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(zoo.make("gpt2"), zoo.batch_of("gpt2", 4, 0))


def cut_by(prepared: Prepared, plan: Plan) -> ChosenCut:
    sizes = bind(prepared.captured, zoo.batch_of("gpt2", 4, 0), 0).sizes
    trainable = {key for kind, key in prepared.captured.sources.values() if kind == "parameter"}
    return choose_cut(prepared, measure(prepared.captured, sizes), sizes, plan, trainable)


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
