"""From a model and a plan to an engine."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from merak.engine.agreement import check_same, digest_of_values, together
from merak.engine.build import Builder, undisturbed
from merak.engine.engine import Engine
from merak.engine.gradients import Gradients
from merak.engine.layout import Layout
from merak.engine.parameters import own
from merak.engine.tensor_parallel import TensorParallel, warn_if_idle
from merak.engine.variants import Variants
from merak.graph.capture import LossFunction
from merak.graph.gradients import embedding_tables, parameters_with_gradients
from merak.pipeline.microbatches import rows_of, split
from merak.planner.found import Found
from merak.planner.plan import Plan
from merak.sharding.annotations import Annotation, Tactic

OptimizerMaker = Callable[[Iterable[Any]], torch.optim.Optimizer]


def parallelize(
    model: nn.Module,
    plan: Plan | Found,
    example_inputs: Mapping[str, Any],
    *,
    optimizer: OptimizerMaker,
    loss_fn: LossFunction | None = None,
    clip: float | None = None,
    annotations: Sequence[Annotation | Tactic] = (),
    device: torch.device | str | None = None,
) -> Engine:
    """Captures a model, cuts it, and gives each rank its part. Collective over all ranks of the default group.

    Args:
        model: the plain model, the same on all ranks. Each rank trains the parameters of its stages, in place; the
            others are left as they are. Of a model on the meta device each rank makes and initialises its own
            parameters only, from seeds by their names: any plan starts from the same model.
        plan: for as many ranks as there are; or what `merak.plan` has found, which is the same on all ranks. The
            layouts that it has found come behind `annotations`.
        example_inputs: what `model(**example_inputs)` takes, of this data-parallel rank.
        optimizer: makes an optimizer of this rank's parameters; of (name, parameter) pairs if its argument is called
            `named_parameters`.
        loss_fn: from the model's output and the batch to a loss; by default the output's `loss`. The model gets of the
            batch what its `forward` names.
        clip: the gradients' largest norm, over all parameters.
        annotations: what is divided over the axis "tp" in other ways than Megatron's (see `merak.sharding`).
        device: where the model is, or is to be if it is on meta (by default the CPU).

    Raises:
        CaptureError: the model cannot be captured or cut.
        ValueError: the plan fits neither the ranks, nor the batch, nor the model.
    """
    if isinstance(plan, Found):
        annotations, plan = (*annotations, *plan.annotations), plan.plan
    layout = Layout(plan)
    device = torch.device(device or next((p.device for p in model.parameters() if not p.is_meta), "cpu"))
    check_same(plan.to_json(), "plans", device)
    with undisturbed(device):
        engine = _assemble(model, plan, layout, annotations, example_inputs, optimizer, loss_fn, clip, device)
    layout.open()
    return engine


def _assemble(
    model: nn.Module,
    plan: Plan,
    layout: Layout,
    annotations: Sequence[Annotation | Tactic],
    example_inputs: Mapping[str, Any],
    optimizer: OptimizerMaker,
    loss_fn: LossFunction | None,
    clip: float | None,
    device: torch.device,
) -> Engine:
    check_same(digest_of_values(model), "values of the models' parameters and buffers", device)
    with together("splitting the example into micro-batches", device):
        example = split(example_inputs, min(plan.microbatches, rows_of(example_inputs)))[0]
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensor_parallel = TensorParallel(plan, layout, annotations, trainable)
    builder = Builder(model, plan, layout, tensor_parallel, trainable, loss_fn, device)
    divided, stages = builder.first(example)
    prepared, division = divided.prepared, tensor_parallel.division
    if plan.tp == 1:  # else ranks have parts of different sizes
        check_same("\n".join(segment.module.code for stage in stages for segment in stage.segments), "models", device)
    schedule = builder.schedule(stages, plan.microbatches)
    schedule.check()
    with together("making the engine", device):
        owned = own(model, stages, schedule.stage_to_rank, layout, division, plan.seed, device)
        reached = parameters_with_gradients(prepared.captured, trainable)
        gradients = Gradients(
            {name: one for name, one in owned.parameters.items() if name in reached},
            owned.stages,
            [action.stage for action in schedule.actions(layout.pp_rank) if action.kind == "REDUCE_GRAD"],
            layout.replicas,
            owned.shared,
            plan.data_parallel == "zero1",
            embedding_tables(prepared.captured) if plan.data_parallel == "sparse" else (),
            layout.tensor,
            division,
            layout.is_even,
        )
        first = builder.variant(divided, stages, owned, gradients)
        variants = Variants(first, example, partial(builder.another, owned, gradients))
        made = _make_optimizer(optimizer, gradients.own, device)
    if layout.rank == 0 and tensor_parallel.completions:
        warn_if_idle(tensor_parallel.completions.values())
    if layout.rank == 0 and prepared.terms.inexact and plan.microbatches * plan.dp > 1:
        _warn_of_averages(prepared.terms.inexact)
    return Engine(plan, builder.cut, schedule, layout, tensor_parallel, variants, owned, gradients, made, clip, device)


def _warn_of_averages(inexact: Sequence[str]) -> None:
    warnings.warn(
        f"the loss does not add up over micro-batches, because of {'; '.join(inexact)}: it is averaged over them, by "
        "rows, so that losses and gradients are not those of the whole batch at once (docs/graph.md, on losses). "
        "Where that matters, let the loss be a mean over targets, or run one replica with microbatches=1",
        UserWarning,
        stacklevel=4,
    )


def _make_optimizer(
    make: OptimizerMaker, parameters: Mapping[str, nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    # An optimizer refuses to have no parameters, and a rank's stages may have none.
    parameters = parameters or {"none": nn.Parameter(torch.zeros(0, device=device))}
    named = next(iter(inspect.signature(make).parameters), "") == "named_parameters"
    return make(list(parameters.items()) if named else list(parameters.values()))
