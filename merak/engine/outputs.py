"""The model's output, on every rank of a replica, from what stages have made of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from merak._torch_compat import evaluate_size
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
    """The output's values by number. Those with rows are put together; of others the mean over rows is taken.

    Args:
        made: by micro-batch, the values that this rank's stages have made.
    """
    graph_output: Any = variant.prepared.captured.graph.output_node().args[0]
    owners = {number: stage.index for stage in variant.stages for number in stage.outputs}
    merged = []
    for number, node in enumerate(graph_output):
        if number not in owners:
            merged.append(node)  # a constant of the graph
            continue
        fake, source = node.meta["val"], schedule.stage_to_rank[owners[number]]
        parts = [one[number] for one in made] if source == layout.pp_rank else []
        merged.append(_broadcast(_merge(parts, microbatches), fake, microbatches, source, layout, device))
    return merged


def _merge(parts: Sequence[torch.Tensor], microbatches: Sequence[MicroBatch]) -> torch.Tensor | None:
    if not parts:
        return None
    if all(part.dim() and part.shape[0] == one.rows for part, one in zip(parts, microbatches, strict=True)):
        return torch.cat(list(parts))
    rows = sum(one.rows for one in microbatches)
    if parts[0].is_floating_point() and all(part.shape == parts[0].shape for part in parts):
        return sum((part * (one.rows / rows) for part, one in zip(parts, microbatches, strict=True)), 0 * parts[0])
    raise ValueError(f"outputs of shapes {[tuple(part.shape) for part in parts]} cannot be put together")


def _broadcast(
    value: torch.Tensor | None,
    fake: torch.Tensor,
    microbatches: Sequence[MicroBatch],
    source: int,
    layout: Layout,
    device: torch.device,
) -> torch.Tensor:
    if value is None:
        shapes = [[evaluate_size(size, one.sizes) for size in fake.shape] for one in microbatches]
        shape = shapes[0]
        if all(one and one[0] == microbatch.rows for one, microbatch in zip(shapes, microbatches, strict=True)):
            shape = [sum(one[0] for one in shapes), *shape[1:]]
        value = torch.empty(shape, dtype=fake.dtype, device=device)
    value = value.contiguous()
    dist.broadcast(on_wire(value), group=layout.pipeline, group_src=source)
    return value
