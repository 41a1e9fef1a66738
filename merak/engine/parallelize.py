"""From a model and a plan to an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from merak.engine.agreement import check_same
from merak.engine.engine import Engine, OptimizerMaker
from merak.engine.layout import Layout
from merak.engine.parameters import own
from merak.engine.plan import Plan
from merak.graph.capture import LossFunction
from merak.graph.gradients import parameters_with_gradients
from merak.graph.prepare import Prepared, prepare
from merak.graph.stages import Stage
from merak.graph.weight_gradients import delay_weight_gradients
from merak.pipeline.microbatches import split


def parallelize(
    model: nn.Module,
    plan: Plan,
    example_inputs: Mapping[str, Any],
    *,
    optimizer: OptimizerMaker,
    loss_fn: LossFunction | None = None,
    clip: float | None = None,
) -> Engine:
    """Captures a model, cuts it, and gives each rank its part. Collective over all ranks of the default group.

    Args:
        model: the plain model, the same on all ranks.
        plan: for as many ranks as there are.
        example_inputs: what `model(**example_inputs)` takes, of this data-parallel rank.
        optimizer: makes an optimizer of this rank's parameters.
        loss_fn: from the model's output and the batch to a loss; by default the output's `loss`.
        clip: the gradients' largest norm, over all parameters.

    Raises:
        CaptureError: the model cannot be captured or cut.
        ValueError: the plan fits neither the ranks, nor the batch, nor the model.
    """
    layout = Layout(plan.pp, plan.dp)
    device = next(model.parameters()).device
    check_same(plan.to_json(), "plans", device)
    prepared = prepare(model, split(example_inputs, plan.microbatches)[0], training=True, loss_fn=loss_fn)
    delay_weight_gradients(prepared.captured)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    stages = _cut(prepared, plan, trainable)
    check_same(repr([stage.segments[0].module.code for stage in stages]), "models", device)
    schedule = plan.make_schedule(edges_between(stages))
    schedule.check()
    owned = own(model, stages, schedule.stage_to_rank, layout)
    reached = parameters_with_gradients(prepared.captured, trainable)
    return Engine(plan, layout, prepared, stages, schedule, owned, optimizer, reached, clip, device)


def edges_between(stages: Sequence[Stage]) -> list[tuple[int, int, bool]]:
    """Which stages' values which others need, and whether gradients come back."""
    edges: dict[tuple[int, int], bool] = {}
    for stage in stages:
        for value in stage.sent:
            for consumer in value.consumers:
                pair = stage.index, consumer
                edges[pair] = edges.get(pair, False) or value.has_gradient
    return [(producer, consumer, gradient) for (producer, consumer), gradient in sorted(edges.items())]


def _cut(prepared: Prepared, plan: Plan, trainable: set[str]) -> list[Stage]:
    cuttable = prepared.cuttable
    allowed = [position for position, may in enumerate(cuttable.may_cut) if may]
    count = plan.n_stages
    if len(allowed) < count - 1:
        raise ValueError(f"the model has {len(allowed)} places to cut it, too few for {count} stages")
    boundaries = [allowed[len(allowed) * stage // count] for stage in range(1, count)]
    ends = [0, *boundaries, len(cuttable.trunk)]
    prefixes = [
        round(ratio * (ends[stage + 1] - ends[stage])) for stage, ratio in enumerate(plan.recompute_of_stages())
    ]
    return cuttable.cut(boundaries, prefixes, trainable)
