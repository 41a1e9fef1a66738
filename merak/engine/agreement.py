"""What ranks agree on by a few numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
