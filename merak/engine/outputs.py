"""The model's output, on every rank of a replica, from what stages have made of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from merak._torch_graphs import evaluate_size
from merak.engine.layout import Layout
from merak.engine.variants import Variant
from merak.pipeline.messages import on_wire
from merak.pipeline.microbatches import MicroBatch
from merak.pipeline.schedule import Schedule


def gather_outputs(
    variant: Variant,
    microbatches: Sequence[MicroBatch],
    made: Sequence[dict[int, torch.Tensor]],
    layout: Layout,
    schedule: Schedule,
    device: torch.device,
) -> list[Any]:
    """The output's values by number, of which `check_outputs` has said that they can be put together: those with rows
    one behind the other, of others the mean over rows.

    Args:
        made: by micro-batch, the values that this rank's stages have made.
    """
    owners = {number: stage.index for stage in variant.stages for number in stage.outputs}
    merged = []
    for number, fake in enumerate(variant.divided.outputs):
        if number not in owners:
            merged.append(fake)  # a constant of the graph
            continue
        source = schedule.stage_to_rank[owners[number]]
        parts = []
        if source == layout.pp_rank:
            for one, given in zip(microbatches, made, strict=True):
                parts.append(variant.divided.whole_output(number, given[number], one.sizes))
        merged.append(_broadcast(_merge(parts, microbatches), fake, microbatches, source, layout, device))
    return merged


def check_outputs(variant: Variant, microbatches: Sequence[MicroBatch]) -> None:
    """Refuses what `gather_outputs` could not put together. All ranks know all shapes, so that all refuse.

    Raises:
        ValueError: names the output, and says how to get it.
    """
    captured, outputs = variant.prepared.captured, variant.divided.outputs
    owned = {number for stage in variant.stages for number in stage.outputs}
    for number, name in enumerate(captured.outputs):
        if number not in owned or number == captured.loss or len(microbatches) == 1:
            continue
        fake = outputs[number]
        shapes = _shapes(fake, microbatches)
        if _are_rows(shapes, microbatches) or (fake.is_floating_point() and all(one == shapes[0] for one in shapes)):
            continue
        kinds = ", ".join(dict.fromkeys(str(tuple(one)) for one in shapes))
        raise ValueError(
            f"the model's output {name} is {fake.dtype} of shape {kinds} in {len(microbatches)} micro-batches, which "
            "cannot be put together: only what has the batch's rows, or can be averaged, can. Let the model "
            "give a value for each row, or leave it out, or give the batch as one micro-batch "
            "(`[batch]`), or ask for no output (`eval_step(batch, output=False)`)"
        )


def _shapes(fake: torch.Tensor, microbatches: Sequence[MicroBatch]) -> list[list[int]]:
    return [[evaluate_size(size, one.sizes) for size in fake.shape] for one in microbatches]


def _are_rows(shapes: Sequence[Sequence[int]], microbatches: Sequence[MicroBatch]) -> bool:
    return all(shape and shape[0] == one.rows for shape, one in zip(shapes, microbatches, strict=True))


def _merge(parts: Sequence[torch.Tensor], microbatches: Sequence[MicroBatch]) -> torch.Tensor | None:
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0].clone()
    if _are_rows([part.shape for part in parts], microbatches):
        return torch.cat(list(parts))
    rows = sum(one.rows for one in microbatches)
    return sum((part * (one.rows / rows) for part, one in zip(parts, microbatches, strict=True)), 0 * parts[0])


def _broadcast(
    value: torch.Tensor | None,
    fake: torch.Tensor,
    microbatches: Sequence[MicroBatch],
    source: int,
    layout: Layout,
    device: torch.device,
) -> torch.Tensor:
    if value is None:
        shapes = _shapes(fake, microbatches)
        shape = shapes[0]
        if _are_rows(shapes, microbatches):
            shape = [sum(one[0] for one in shapes), *shape[1:]]
        value = torch.empty(shape, dtype=fake.dtype, device=device)
    value = value.contiguous()
    dist.broadcast(on_wire(value), group=layout.replica, group_src=layout.team(source)[0])
    return value
