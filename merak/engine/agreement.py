"""What ranks agree on by a few numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


def add_up(numbers: Sequence[float], group: dist.ProcessGroup | None, device: torch.device) -> list[float]:
    """The sums of numbers over a group's ranks (None: all ranks), in double precision."""
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, group=group)
    return list(tensor.tolist())


def check_same(text: str, what: str, device: torch.device) -> None:
    """Raises ValueError on every rank, unless all ranks have the same text."""
    digest = hashlib.blake2b(text.encode(), digest_size=7).digest()
    mine = torch.tensor([int.from_bytes(digest, "little")], dtype=torch.int64, device=device)
    everyones = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, mine)
    values = [int(one) for one in everyones]
    if odd := [rank for rank, value in enumerate(values) if value != values[0]]:
        raise ValueError(f"{what} of ranks {odd} differ from rank 0's: give all ranks the same")


def merge_on_all(mine: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The union of all ranks' dicts, which travel as JSON. Where several have a key, the lowest rank's."""
    text = torch.tensor(list(json.dumps(mine).encode()), dtype=torch.uint8, device=device)
    sizes = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([text.numel()], device=device))
    longest = max(int(size) for size in sizes)
    padded = torch.cat([text, text.new_zeros(longest - text.numel())])
    texts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(texts, padded)
    merged: dict[str, Any] = {}
    for one, size in zip(texts, sizes, strict=True):
        merged = json.loads(bytes(one[: int(size)].tolist()).decode()) | merged
    return merged
