"""The drop-in for torch.nn.Embedding."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

import merak.backend
from merak import _C
from merak.embedding.hot import HotLookup, HotRows
from merak.embedding.lookup import Lookup, Priorities, Table
from merak.embedding.table_ahead import TableAhead

Split = Literal["columns", "rows"]
"""What each rank has: some columns of all rows of a table, or all columns of some rows."""

_OF_THE_RANKS = frozenset({"mesh", "ahead", "_table", "_hot"})
"""Attributes that a copy of a table shares with it."""

_BLOCK = 2**24
"""Elements of a table that are drawn at a time."""
_MOST_ROWS = 2**31 - 1
"""Of a table, as csrc/transport/row_sums.h numbers rows."""


class ShardedEmbedding(torch.nn.Module):
    """`torch.nn.Embedding` inside data parallelism, split over the ranks of `mesh`.

    Every rank passes its own ids and gets their rows, as with `nn.Embedding` under DDP; gradients are averaged over the
    ranks, as DDP does. But a rank holds, and updates, only its part of the table: `weight`, its columns of all rows, or
    its rows, as `DTensor` cuts dimension 1, or 0. Rows and their gradients travel between the ranks that hold them and
    those that read them, each row that a rank reads once. All ranks call the module together, and their backward.

    `weight.grad` is a coalesced COO tensor (with ``sparse=False`` a dense one), so that SGD, Adagrad and SparseAdam of
    `torch.optim` work. DDP must leave the table alone: `merak.embedding.shard(model)` tells it so, also of a model that
    has such modules from the start.

    `state_dict()["weight"]` is the whole table, as a DTensor; `load_state_dict` takes that, or a tensor of the whole
    table as `nn.Embedding` has it.

    Args:
        num_embeddings, embedding_dim, padding_idx, sparse, device, dtype: as of `torch.nn.Embedding`. Rows are drawn as
            it draws them; with the same seed on all ranks the table is the same for any number of ranks.
        max_norm, scale_grad_by_freq: are refused.
        mesh: of one dimension; default: all ranks. Its group has to be merak's.
        split: with "columns" all ranks do the same work, whatever rows are read. "rows" makes less of it where a rank
            would have few columns; but the ranks with the frequent rows do most of it.
        hot: with "rows", ids of rows that every rank has a copy of, behind its own rows in `weight`, as they are read
            often; the same on all ranks. Not together with `LookAhead`. State dicts are as without them, and may be
            loaded with others; all ranks make, save and load such a table, and the state of its optimizer, together.

    Raises:
        ValueError: for what is refused.
        DistBackendError: an id is none of the table's; on all ranks, naming the rank and the id.
    """

    weight: torch.nn.Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        scale_grad_by_freq: bool = False,
        sparse: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        mesh: DeviceMesh | None = None,
        split: Split = "columns",
        hot: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if max_norm is not None:
            raise ValueError(
                "max_norm is not taken: it would change rows in the forward pass, whose norm no rank can tell from its "
                "columns alone. Clip what the optimizer does instead."
            )
        if scale_grad_by_freq:
            raise ValueError("scale_grad_by_freq is not taken: ranks do not tell each other how often they read a row.")
        if num_embeddings > _MOST_ROWS:
            raise ValueError(f"a table has {_MOST_ROWS} rows at most, not {num_embeddings}: make several of it.")
        self.num_embeddings, self.embedding_dim, self.sparse = num_embeddings, embedding_dim, sparse
        self.padding_idx = _padding(padding_idx, num_embeddings)
        self.mesh = mesh if mesh is not None else DeviceMesh.from_group(_world(), "cpu")
        if self.mesh.ndim != 1:
            raise ValueError(f"the mesh has {self.mesh.ndim} dimensions; pass one of them: mesh[name].")
        group = self.mesh.get_group()
        backend = merak.backend.of_group(group)
        cut = _C.TableSplit(split, num_embeddings, embedding_dim, self.mesh.size(), backend.new_table())
        padding = -1 if self.padding_idx is None else self.padding_idx
        self._table = Table(backend, cut, embedding_dim, padding, sparse)
        rank = self.mesh.get_local_rank()
        self._rows, self._columns = cut.rows(rank), cut.columns(rank)
        self._hot = self._hot_rows(hot)
        rows = self._rows.stop - self._rows.start + (0 if self._hot is None else len(self._hot))
        columns = self._columns.stop - self._columns.start
        self.weight = torch.nn.Parameter(torch.empty(rows, columns, device=device, dtype=dtype))
        self.ahead: TableAhead | None = None  # inside a loop over LookAhead
        self.reset_parameters()
        _alive.add(self)

    @classmethod
    def from_embedding(
        cls,
        embedding: torch.nn.Embedding,
        *,
        mesh: DeviceMesh | None = None,
        sparse: bool = True,
        split: Split = "columns",
        hot: torch.Tensor | None = None,
    ) -> ShardedEmbedding:
        """With the weights of an `nn.Embedding`, which are the same on all ranks."""
        made = cls(
            embedding.num_embeddings,
            embedding.embedding_dim,
            embedding.padding_idx,
            embedding.max_norm,
            embedding.scale_grad_by_freq,
            sparse,
            "meta",
            embedding.weight.dtype,
            mesh=mesh,
            split=split,
            hot=hot,
        )
        made._take(embedding.weight)
        return made

    def _take(self, whole: torch.Tensor) -> None:
        part = self.part_of(whole.detach()).clone(memory_format=torch.contiguous_format)
        self.weight = torch.nn.Parameter(part, whole.requires_grad)

    @property
    def by_rows(self) -> bool:
        """Whether ranks have whole rows."""
        return self._table.split.by_rows

    def reset_parameters(self) -> None:
        """Draws the table from N(0, 1), its padding row zeros. Uses up as many random numbers as the whole table."""
        if self.weight.is_meta:
            return
        most, mine = max(_BLOCK // max(self.embedding_dim, 1), 1), self._rows
        with torch.no_grad():
            for begin in range(0, self.num_embeddings, most):
                end = min(begin + most, self.num_embeddings)
                drawn = torch.empty(end - begin, self.embedding_dim, device=self.weight.device, dtype=self.weight.dtype)
                drawn.normal_()
                first, last = max(begin, mine.start), min(end, mine.stop)
                if first < last:
                    rows = drawn[first - begin : last - begin, self._columns]
                    self.weight[first - mine.start : last - mine.start] = rows
            if self.padding_idx is not None and mine.start <= self.padding_idx < mine.stop:
                self.weight[self.padding_idx - mine.start].zero_()
            if self._hot is not None:
                self.weight[self._hot.first :] = self._hot.copies(self.weight[: self._hot.first])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the table, [*, embedding_dim], for this rank's ids, int64 or int32 of any shape [*]."""
        if not isinstance(ids, torch.Tensor):
            self._table.backend.refuse_embedding(f"ids are of type {type(ids).__name__}; pass a tensor.")  # raises
        if self.ahead is not None:
            if self.training and torch.is_grad_enabled():
                return self.ahead.rows(ids)
            self.ahead.settle()
        rows: torch.Tensor
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        if self._hot is None:
            rows = Lookup.apply(self.weight, ids, self._table, trains)
        else:
            rows = HotLookup.apply(self.weight, ids, self._hot, trains)
        if self.ahead is not None and rows.requires_grad:
            rows.register_hook(_refuse_gradient)
        return rows

    def look_ahead(self, split: bool, priorities: Priorities) -> TableAhead:
        """Lets lookups go ahead of the forward pass, until `end_look_ahead`; for `LookAhead`.

        Raises:
            ValueError: another one uses this table, or it has hot rows.
        """
        if self._hot is not None:
            raise ValueError(
                "a table with hot rows cannot be in a look-ahead: their gradients are all-reduced whole, in backward "
                "passes. Make it without `hot`, or leave it out of `ids`."
            )
        if self.ahead is not None:
            raise ValueError("a table is in the look-ahead of another loop, which has not ended.")
        self.ahead = TableAhead(self.weight, self._table, split, priorities)
        return self.ahead

    def end_look_ahead(self, to_the_end: bool) -> None:
        """Waits for all that is on its way; see `TableAhead.close`."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            ahead.close(to_the_end)

    def settle(self) -> None:
        """Waits until the table has the updates of all steps so far; a look-ahead may still be at some of them."""
        if self.ahead is not None:
            self.ahead.settle()

    def whole_gradient(self) -> None:
        """Has `weight.grad` hold the gradient of the last backward pass, of which a look-ahead may have sent a part."""
        if self.ahead is not None:
            self.ahead.whole_gradient()

    def whole_table(self) -> DTensor:
        """The table, of which this rank has its part; shares its memory."""
        self.settle()
        return self.whole(self.weight.detach())

    def whole(self, part: torch.Tensor) -> DTensor:
        """What ranks have each for their part of the table, as one: of the table's shape, or, of a number a row, of its
        rows; shares their memory."""
        part = part if self._hot is None else self._hot.own_rows(part)
        shape, stride = (self.num_embeddings, self.embedding_dim), (self.embedding_dim, 1)
        return DTensor.from_local(
            part,
            self.mesh,
            self._placements(part.dim()),
            run_check=False,
            shape=torch.Size(shape[: part.dim()]),
            stride=stride[-part.dim() :],
        )

    def _placements(self, dimensions: int) -> list[Placement]:
        if self.by_rows:
            return [Shard(0)]
        return [Shard(1) if dimensions == 2 else Replicate()]

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedEmbedding:
        """A table of its own over the same ranks, in no look-ahead."""
        self.settle()
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        for name, value in vars(self).items():
            vars(made)[name] = value if name in _OF_THE_RANKS else copy.deepcopy(value, memo)
        made.ahead = None
        _alive.add(made)
        return made

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is one rank's part of a table, and cannot be pickled (as torch.save of a model "
            "does) nor copied by copy.copy: save state_dict(), by torch.distributed.checkpoint, or each table in it "
            "whole, by full_tensor(), which all ranks call. copy.deepcopy works."
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ShardedEmbedding:
        if self.ahead is not None:
            before = self.weight.detach()[:0]
            after = fn(before)
            if (after.dtype, after.device) != (before.dtype, before.device):
                raise ValueError(
                    f"rows of this table are on their way, as {before.dtype} on {before.device}: make it "
                    f"{after.dtype} on {after.device} outside the loop over LookAhead."
                )
        converted: ShardedEmbedding = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return converted

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        name, part = ("rows", self._rows) if self.by_rows else ("columns", self._columns)
        hot = "" if self._hot is None else f", {len(self._hot)} hot rows"
        return (
            f"{self.num_embeddings}, {self.embedding_dim}{padding}, {name} {part.start} to {part.stop} of rank "
            f"{self.mesh.get_local_rank()} of {self.mesh.size()}{hot}"
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.settle()
        destination[prefix + "weight"] = self.weight if keep_vars else self.whole_table()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        if self.ahead is not None:
            raise RuntimeError("rows of this table are on their way: load it outside the loop over LookAhead.")
        key = prefix + "weight"
        whole = state_dict.get(key)
        whole_shape = (self.num_embeddings, self.embedding_dim)
        if whole is not None and tuple(whole.shape) != whole_shape:
            errors: list[str] = arguments[-1]
            errors.append(f"size mismatch for {key}: it is {tuple(whole.shape)}, and the whole table {whole_shape}.")
            return
        if whole is not None:
            state_dict = dict(state_dict)
            state_dict[key] = self.part_of(whole)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def part_of(self, whole: torch.Tensor) -> torch.Tensor:
        """This rank's part of a tensor of the table's shape, or of a number a row: which all ranks have, or a DTensor
        on any mesh."""
        own = self._own_part_of(whole)
        return own if self._hot is None else torch.cat([own, self._hot.copies(own)])

    def counted(self, gradient: torch.Tensor) -> torch.Tensor:
        """Of a gradient of `weight` what stands for it in sums over ranks: of hot rows, those of the first rank."""
        first = None if self._hot is None or self.mesh.get_local_rank() == 0 else self._hot.first
        if gradient.layout is not torch.sparse_coo:
            return gradient[:first]
        return gradient.values() if first is None else gradient.values()[gradient.indices()[0] < first]

    def _hot_rows(self, ids: torch.Tensor | None) -> HotRows | None:
        if ids is None or len(ids) == 0:
            return None
        if not self.by_rows:
            raise ValueError('hot rows are for split="rows"; of columns all ranks do the same work without them.')
        return HotRows(ids, self._table, self.num_embeddings, self.mesh.get_group())

    def _own_part_of(self, whole: torch.Tensor) -> torch.Tensor:
        if not isinstance(whole, DTensor):
            return whole[(self._rows, self._columns)[: whole.dim()]]
        placements = self._placements(whole.dim())
        if whole.device_mesh != self.mesh or list(whole.placements) != placements:
            whole = whole.redistribute(self.mesh, placements)
        return whole.to_local()


_alive: weakref.WeakSet[ShardedEmbedding] = weakref.WeakSet()


def table_of(parameter: torch.Tensor) -> ShardedEmbedding | None:
    """The table of which a parameter is this rank's part; None if it is a parameter like any other."""
    return next((table for table in _alive if table.weight is parameter), None)


def _padding(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx is {padding_idx}; the embedding has {rows} rows.")
    return padding_idx % rows


def _world() -> dist.ProcessGroup:
    if dist.group.WORLD is None:
        raise ValueError('there is no process group: call torch.distributed.init_process_group("merak") first.')
    return dist.group.WORLD


def _refuse_gradient(_: torch.Tensor) -> None:
    raise RuntimeError(
        "inside a loop over LookAhead rows that were not announced are read without gradients: under torch.no_grad()."
    )
