"""A data loader that knows the next batches, so that their rows travel while others are computed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import torch

from merak.embedding.lookup import PRIORITIES, Priorities
from merak.embedding.module import ShardedEmbedding
from merak.embedding.optimizers import RowOptimizer
from merak.embedding.table_ahead import TableAhead

BatchT = TypeVar("BatchT")

IdsOf = Callable[[BatchT], Mapping[ShardedEmbedding, torch.Tensor | Sequence[torch.Tensor]]]


class LookAhead(Generic[BatchT]):
    """Iterates over the batches of a data loader, a few ahead of the loop: rows of tables that are split over the ranks
    are looked up before the forward pass asks for them, and, with a row optimizer, gradients that the next batch does
    not need travel beside its computation. The numbers are those of a loop without it, bit for bit.

        tables = merak.embedding.AdamW(table.parameters(), lr=1e-3)
        for batch in LookAhead(loader, ids=lambda batch: {model.table: batch["input_ids"]}, optimizer=tables):
            model(batch).backward()
            tables.step()

    Inside the loop the tables may be read, in training, with the announced ids alone; under `torch.no_grad`, or in
    `eval()`, with any. `step()` of the optimizer uses gradients up. A loop that needs them whole, as it adds those of
    several passes up, or clips by `merak.embedding.clip_grad_norm_`, has them, and a warning that rows go in one part
    then. All ranks have to have as many batches, and to end a loop in the same place; a loader that ends sooner than
    those of other ranks raises `ValueError`, and the others are told.

    Args:
        loader: its batches; iterated once for each loop.
        ids: of a batch, by table, what the model will look up in it, in one tensor; or in a list, in the order of uses.
        optimizer: of these tables, one of `merak.embedding`. Gradients of tables that it does not have are not split,
            nor are those that `RowWiseAdagrad` needs whole.
        batches: how many it is ahead. With one, delayed gradients travel beside the next step; with two or more rows
            are looked up beside it, too.
        split: False sends gradients whole, whatever the optimizer.
        prioritise: False sends messages in the order in which they are started.

    Raises:
        ValueError: `batches` is below 1, or the optimizer is none of `merak.embedding`.
    """

    def __init__(
        self,
        loader: Iterable[BatchT],
        ids: IdsOf[BatchT],
        optimizer: RowOptimizer | None = None,
        batches: int = 2,
        *,
        split: bool = True,
        prioritise: bool = True,
    ) -> None:
        if batches < 1:
            raise ValueError(f"batches is {batches}; a look-ahead is of one batch at least.")
        if optimizer is not None and not isinstance(optimizer, RowOptimizer):
            raise ValueError("the optimizer is not one of merak.embedding; leave it out, and call its step() yourself.")
        self._loader, self._ids, self._optimizer, self._batches = loader, ids, optimizer, batches
        self._split = split
        self._priorities = PRIORITIES if prioritise else Priorities(0, 0, 0)
        self._tables: dict[ShardedEmbedding, TableAhead] = {}
        self._batches_seen, self._has_ended = 0, False  # of the loader

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[BatchT]:
        if self._tables:
            raise ValueError("a loop over this LookAhead has not ended.")
        source = iter(self._loader)
        waiting: deque[BatchT] = deque()
        at_the_end = False
        self._batches_seen, self._has_ended = 0, False
        try:
            for _ in range(self._batches):
                self._pull(source, waiting)
            for ahead in self._tables.values():
                ahead.start()
            while waiting:
                for ahead in self._tables.values():
                    ahead.turn()
                self._pull(source, waiting)
                yield waiting.popleft()
            at_the_end = True
        finally:
            self._end(at_the_end)

    def _pull(self, source: Iterator[BatchT], waiting: deque[BatchT]) -> None:
        if self._has_ended:
            return
        for batch in source:
            ids = self._ids(batch)
            if not isinstance(ids, Mapping) or not all(isinstance(table, ShardedEmbedding) for table in ids):
                raise ValueError("`ids` has to return a dictionary of ShardedEmbedding modules and what they look up.")
            if not self._tables:
                for table in ids:
                    self._tables[table] = self._follow(table)
            if ids.keys() != self._tables.keys():
                raise ValueError("`ids` names other tables than it did for the first batch.")
            uses = {table: _as_list(ids[table]) for table in self._tables}
            for table, ahead in self._tables.items():
                ahead.announce(uses[table])
            waiting.append(batch)
            self._batches_seen += 1
            return
        self._has_ended = True
        self._end_with_the_others()

    def _end_with_the_others(self) -> None:
        """Announces nothing; who hears of rows then lacks a batch that other ranks have, and would take their lookups
        for its own next collectives."""
        ends = [ahead.announce_nothing() for ahead in self._tables.values()]
        for ahead, end in zip(self._tables.values(), ends, strict=True):
            ahead.refuse_further_rows(end, self._batches_seen)

    def _follow(self, table: ShardedEmbedding) -> TableAhead:
        split = self._split and self._optimizer is not None and self._optimizer.splits(table.weight)
        return table.look_ahead(split, self._priorities)

    def _end(self, to_the_end: bool) -> None:
        tables, self._tables = self._tables, {}
        with contextlib.ExitStack() as ends:  # of all of them, also where one raises an error
            for table in reversed(tables):
                ends.callback(table.end_look_ahead, to_the_end)


def _as_list(uses: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    listed = list(uses) if isinstance(uses, Sequence) else [uses]
    if not listed:
        raise ValueError("`ids` has an empty list for a table: what it looks up is one tensor at least.")
    if not all(isinstance(one, torch.Tensor) for one in listed):
        raise ValueError("`ids` has to return, of each table, a tensor of ids, or a list of them, one for each use.")
    return listed
