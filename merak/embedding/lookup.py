"""Lookups, as autograd sees them."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from merak.embedding.part_of_gradient import PartOfGradient

if TYPE_CHECKING:
    from merak._C import Backend, EmbeddingLookup, TableSplit

NO_TIMEOUT = datetime.timedelta(0)
"""What stands for the group's own timeout."""


class Priorities(NamedTuple):
    """In which order messages that are ready go. Gradients of dense layers have 0; in layerwise.py more, and less than
    these, the sooner the next forward pass needs them."""

    announcement: int = 2**20 + 1
    prior: int = 2**20
    """Of rows that the next forward pass needs."""
    delayed: int = -1


PRIORITIES = Priorities()


@dataclasses.dataclass(frozen=True)
class Table:
    """What a lookup has to know of its table, beside this rank's part of it."""

    backend: Backend
    split: TableSplit
    columns: int
    """Of the whole table."""
    padding: int
    """The row that gets no gradient, or -1."""
    sparse: bool
    """Whether the gradient is a COO tensor."""

    def look_up(self, shard: torch.Tensor, ids: torch.Tensor, trains: bool) -> EmbeddingLookup:
        """Starts it. `trains`: whether there will be a gradient."""
        return self.backend.embedding_lookup(shard, ids, self.split, self.padding, trains, PRIORITIES.prior, NO_TIMEOUT)


class Lookup(torch.autograd.Function):
    """Rows of a table for this rank's ids, beside those of the other ranks for theirs. All ranks call it, and its
    backward, in the same order.

    The gradient is on its way while the rest of the backward pass goes on, and added to `shard.grad` at its end, as DDP
    does it; autograd itself is given none, so that `torch.autograd.grad` of a shard raises an error.
    """

    @staticmethod
    def forward(ctx: Any, shard: torch.Tensor, ids: torch.Tensor, table: Table, trains: bool) -> torch.Tensor:
        lookup = table.look_up(shard, ids, trains)
        lookup.work.wait()
        ctx.batch, ctx.table, ctx.shard = lookup.batch(), table, shard
        rows: torch.Tensor = lookup.work.get_future().wait()[0]
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None, None]:
        table: Table = ctx.table
        work = table.backend.embedding_gradient(ctx.batch, gradients[0], PRIORITIES.prior, NO_TIMEOUT)
        accumulate_later(ctx.shard, work, table)
        return None, None, None, None


def accumulate_later(shard: torch.Tensor, work: dist.Work, table: Table) -> None:
    """Adds what comes to the parameter's gradient, at the end of the backward pass that this is called in."""
    finish = functools.partial(add_to_gradient, shard, work, table)
    torch.autograd.Variable._execution_engine.queue_callback(finish)


def add_to_gradient(shard: torch.Tensor, work: dist.Work, table: Table) -> None:
    """Waits for a gradient, as `Backend.embedding_gradient` gives it, and adds it to the parameter's."""
    work.wait()
    ids, rows = work.get_future().wait()
    add_rows(shard, ids, rows, table)


@torch.no_grad()
def add_rows(shard: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor, table: Table) -> None:
    """Adds rows to the parameter's gradient; ids ascend."""
    gradient = torch.sparse_coo_tensor(ids.unsqueeze(0), rows, shard.shape, check_invariants=False, is_coalesced=True)
    gradient = gradient if table.sparse else gradient.to_dense()
    if shard.grad is not None:
        gradient = _sum(shard.grad, gradient)
    is_whole = table.sparse or table.backend.size() == 1
    shard.grad = gradient if is_whole else gradient.as_subclass(PartOfGradient)


def _sum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if one.layout is not torch.sparse_coo:
        return one + other
    # Of float16, torch adds up the rows of a COO tensor, but not two COO tensors.
    one = one.coalesce()
    ids, rows = torch.cat([one.indices(), other.indices()], 1), torch.cat([one.values(), other.values()])
    return torch.sparse_coo_tensor(ids, rows, one.shape, check_invariants=False).coalesce()
