"""Steps between parts of a tensor that one rank computes one after the other: an axis of the mesh that is time.

They are the steps of `collectives` where nothing travels, and autograd knows their backwards.
"""

from __future__ import annotations

from typing import Any

import torch

from merak._torch_graphs import is_fake
from merak.sharding.collectives import Cut, apart, fake_resized, own_part, together


def add_up(*parts: torch.Tensor) -> torch.Tensor:
    """Partial sums become the sum."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def join(*parts_and_cut: Any) -> torch.Tensor:
    """Parts become the whole.

    Args:
        parts_and_cut: the parts, and where they are cut as the first of them has it.
    """
    *parts, cut = parts_and_cut
    where = Cut(*cut)
    if is_fake(parts[0]):
        return fake_resized(parts[0], where, where.size)
    return together(torch.cat([apart(part, where) for part in parts], where.dim + 1), where.dim)


def part(whole: torch.Tensor, cut: tuple[int, ...]) -> torch.Tensor:
    """The part that `cut` says, of the whole."""
    return own_part(whole, Cut(*cut))
