"""What ranks tell each other as JSON."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist


def gather_json(mine: Any, device: torch.device) -> list[Any]:
    """Everyone's, by rank of the default group. Collective.

    Args:
        device: that the texts travel from.
    """
    text = torch.tensor(list(json.dumps(mine).encode()), dtype=torch.uint8, device=device)
    longest = torch.tensor([len(text)], device=device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    padded = torch.full((int(longest),), ord(" "), dtype=torch.uint8, device=device)
    padded[: len(text)] = text
    everyones = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, padded)
    return [json.loads(bytes(one.tolist()).decode()) for one in everyones]
