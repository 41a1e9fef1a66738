"""What ranks tell each other: rows, initial values, whether ranks of one replica have the same batch, and failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from merak.engine.checkpoint import failures_of_all
from merak.pipeline.messages import on_wire

T = TypeVar("T")


def gather_rows(tensor: torch.Tensor, replicas: dist.ProcessGroup) -> torch.Tensor:
    """The rows of all ranks of a group, which may have different counts of them; a number is a row."""
    rows = tensor.detach().contiguous() if tensor.dim() else tensor.detach().reshape(1)
    counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(replicas.size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device), group=replicas)
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    everyones = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everyones, padded, group=replicas)
    return torch.cat([one[:size] for one, size in zip(everyones, sizes, strict=True)])


def give_to_all(model: nn.Module) -> None:
    """Gives all ranks the values of rank 0's parameters and buffers, as DDP does: new layers start from random ones."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.numel():
            values = tensor.detach().contiguous()
            dist.broadcast(on_wire(values), src=0)
            tensor.detach().copy_(values)


def all_or_none(action: Callable[[], T], what: str, device: torch.device) -> T:
    """What an action gives, where it succeeds on all ranks: it may have effects on one of them only, such as writing.
    Where it fails, a rank raises its own error, and the others ValueError. Collective over all ranks.

    Args:
        action: without communication, or with such as fails on all ranks or on none.
        what: what was not done, of the others' error.
    """
    failure: Exception | None = None
    made: list[T] = []
    try:
        made.append(action())
    except (dist.DistBackendError, dist.DistNetworkError):
        raise  # the other ranks are not there to be told
    except Exception as error:
        failure = error
    said = failures_of_all(failure, device)
    if failure is not None:
        raise failure
    if said:
        raise ValueError(f"{what}: " + "; ".join(f"rank {rank}: {one}" for rank, one in said.items()))
    return made[0]
