"""Lookups, as autograd sees them."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from merak._C import Backend

NO_TIMEOUT = datetime.timedelta(0)
"""What stands for the group's own timeout."""

PRIORITY = 1
"""Of rows, before gradients of dense layers, which have 0: the next forward pass needs them first."""


@dataclasses.dataclass(frozen=True)
class Table:
    """What a lookup has to know of its table, beside this rank's columns of it."""

    backend: Backend
    columns: int
    padding: int
    """The row that gets no gradient, or -1."""
    sparse: bool
    """Whether the gradient is a COO tensor."""


class Lookup(torch.autograd.Function):
    """Rows of a table for this rank's ids, beside those of the other ranks for theirs. All ranks call it, and its
    backward, in the same order."""

    @staticmethod
    def forward(ctx: Any, shard: torch.Tensor, ids: torch.Tensor, table: Table) -> torch.Tensor:
        lookup = table.backend.embedding_lookup(shard, ids, table.columns, PRIORITY, NO_TIMEOUT)
        lookup.work.wait()
        ctx.batch, ctx.table, ctx.shape = lookup.batch(), table, shard.shape
        rows: torch.Tensor = lookup.work.get_future().wait()[0]
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        table: Table = ctx.table
        work = table.backend.embedding_gradient(ctx.batch, gradients[0], table.padding, PRIORITY, NO_TIMEOUT)
        work.wait()
        ids, rows = work.get_future().wait()
        gradient = torch.sparse_coo_tensor(ids.unsqueeze(0), rows, ctx.shape, check_invariants=False, is_coalesced=True)
        return gradient if table.sparse else gradient.to_dense(), None, None
