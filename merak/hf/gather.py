"""Rows of all replicas, one replica's behind the other's."""

from __future__ import annotations

import torch
import torch.distributed as dist


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
