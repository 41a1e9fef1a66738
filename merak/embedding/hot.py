"""Hot rows of a table that is split by rows: read so often that every rank has a copy of them.

A rank's part of such a table is its own rows, and behind them the copies, the same on all ranks:

    own rows [first, D]         those of them that are hot are not kept up to date, until the table is asked for whole
    copies   [hot rows, D]

A hot row is looked up where it is read. Its gradients are averaged by an exact sparse all-reduce, in the order of
ranks; so every rank has the same bits, and changes its copy alike. What travels of rows that all ranks read is as much
as without copies, but no longer to and from one rank.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
import torch.distributed as dist

from merak import _C
from merak.embedding.lookup import NO_TIMEOUT, PRIORITIES, Table, add_rows


class HotRows:
    """Which rows are hot, and where a rank has them. All ranks make it together.

    Args:
        ids: of the table's rows, in any order, the same on all ranks.
        table: which is split by rows over the ranks of `group`.
        rows: of the table.

    Raises:
        ValueError: ids are none of the table's, or ranks have others.
    """

    def __init__(self, ids: torch.Tensor, table: Table, rows: int, group: dist.ProcessGroup) -> None:
        self.ids = torch.as_tensor(ids, dtype=torch.int64, device="cpu").unique()
        if len(self.ids) and not (self.ids[0] >= 0 and self.ids[-1] < rows):
            raise ValueError(f"hot rows are from 0 to below {rows}, the rows of the embedding.")
        _check_same(self.ids, group)
        self.table, self.rows, self.group = table, rows, group
        own = table.split.rows(group.rank())
        self.first = own.stop - own.start
        is_own = (self.ids >= own.start) & (self.ids < own.stop)
        self._copies, self._originals = self.first + is_own.nonzero()[:, 0], self.ids[is_own] - own.start

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, ids: torch.Tensor) -> torch.Tensor:
        """Of each id its place among the hot rows, or -1; of all ids -1 where one is none of the table's, so that the
        lookup of the others finds it."""
        ids = ids.long()
        if len(ids) == 0 or not (ids.min() >= 0 and ids.max() < self.rows):
            return torch.full_like(ids, -1)
        places = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        return places.where(self.ids[places] == ids, -1)

    @torch.no_grad()
    def own_rows(self, part: torch.Tensor) -> torch.Tensor:
        """This rank's rows of a part, up to date; shares its memory."""
        part[self._originals] = part[self._copies]
        return part[: self.first]

    @torch.no_grad()
    def copies(self, own_rows: torch.Tensor) -> torch.Tensor:
        """What stands behind a rank's own rows, which may be numbers. All ranks call it together."""
        width = own_rows.size(1) if own_rows.dim() == 2 else 1
        flat = own_rows.reshape(self.first, width)
        cut = _C.TableSplit("rows", self.rows, width, self.group.size())
        work = dataclasses.replace(self.table, split=cut).look_up(flat.contiguous(), self.ids, False).work
        work.wait()
        found: torch.Tensor = work.get_future().wait()[0]
        return found.reshape(len(self.ids), *own_rows.shape[1:])


class HotLookup(torch.autograd.Function):
    """`lookup.Lookup`, of a table with hot rows."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, ids: torch.Tensor, hot: HotRows, trains: bool) -> torch.Tensor:
        table, flat = hot.table, ids.reshape(-1)
        places = hot.places(flat)
        cold, here = (places < 0).nonzero()[:, 0], (places >= 0).nonzero()[:, 0]  # which tokens
        places = places.index_select(0, here)
        lookup = table.look_up(part[: hot.first], flat.index_select(0, cold), trains)
        rows = part.new_empty(len(flat), table.columns)
        rows.index_copy_(0, here, part.index_select(0, places + hot.first))
        lookup.work.wait()
        rows.index_copy_(0, cold, lookup.work.get_future().wait()[0])
        ctx.part, ctx.hot, ctx.cold, ctx.here, ctx.places, ctx.batch = part, hot, cold, here, places, lookup.batch()
        return rows.view(*ids.shape, table.columns)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None, None]:
        hot: HotRows = ctx.hot
        table, places, here = hot.table, ctx.places, ctx.here
        gradient = gradients[0].reshape(-1, table.columns)
        work = table.backend.embedding_gradient(
            ctx.batch, gradient.index_select(0, ctx.cold), PRIORITIES.prior, NO_TIMEOUT
        )
        if table.padding >= 0:
            counts = hot.ids[places] != table.padding
            places, here = places[counts], here[counts]
        shape = (len(hot), table.columns)
        of_hot = torch.sparse_coo_tensor(places[None], gradient.index_select(0, here), shape, check_invariants=False)
        average = table.backend.sparse_all_reduce([of_hot], dist.ReduceOp(dist.ReduceOp.AVG), "balanced", NO_TIMEOUT)
        finish = functools.partial(_add_to_gradient, ctx.part, work, average, hot)
        torch.autograd.Variable._execution_engine.queue_callback(finish)
        return None, None, None, None


def _add_to_gradient(part: torch.Tensor, work: dist.Work, average: dist.Work, hot: HotRows) -> None:
    work.wait()
    average.wait()
    ids, rows = work.get_future().wait()
    of_hot = average.get_future().wait()[0]
    ids = torch.cat([ids, of_hot.indices()[0] + hot.first])
    add_rows(part, ids, torch.cat([rows, of_hot.values()]), hot.table)


def _check_same(ids: torch.Tensor, group: dist.ProcessGroup) -> None:
    counts = torch.tensor([len(ids), -len(ids)])
    dist.all_reduce(counts, dist.ReduceOp.MAX, group)
    extremes = torch.stack([ids, -ids])
    if counts[0] == -counts[1]:
        dist.all_reduce(extremes, dist.ReduceOp.MAX, group)
    if counts[0] != -counts[1] or not torch.equal(extremes[0], -extremes[1]):
        raise ValueError("ranks name other hot rows; pass the same ones on all of them.")
