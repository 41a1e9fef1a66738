"""One table under a look-ahead: which rows travel when.

With U(t) the rows that any rank reads in batch t, and K(t) those that this rank reads:

    backward pass of t    the gradients of the *prior* rows go, those in U(t) and U(t + 1)
    step() after it       they are applied; then go
                            at once: rows of K(t + 1) that are in U(t), the others are there already
                            beside all else: gradients of the *delayed* rows, in U(t) and not in U(t + 1); as soon as
                            they are applied, the rows of K(t + 2) that are not in U(t + 1)

So a row is looked up for t + 2 after every update before that of t + 1, which does not touch it, or else after that of
t + 1; and a rank waits, between a backward pass and the next forward pass, for prior rows alone. Updates in parts are
those of one whole (csrc/embedding/update_rows.h). Where batch t + 2 is not known, all rows of t + 1 go at once.

Source: S. Li et al., "EmbRace: Accelerating Sparse Communication for Distributed Training of Deep Neural Networks",
2022, with lookups split as gradients are.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from merak import _C
from merak.embedding.lookup import NO_TIMEOUT, Priorities, Table, accumulate_later, add_to_gradient

if TYPE_CHECKING:
    from merak._C import EmbeddingBatch, EmbeddingLookup


@dataclasses.dataclass
class Announced:
    """A batch that the ranks have told each other of: this rank's ids, and what was looked up of their rows."""

    ids: list[torch.Tensor]
    announcement: EmbeddingLookup
    rows: torch.Tensor
    works: list[dist.Work] = dataclasses.field(default_factory=list)
    has_early: bool = False
    """Rows that the batch before it does not read."""
    has_all: bool = False

    @property
    def batch(self) -> EmbeddingBatch:
        self.announcement.work.wait()
        return self.announcement.batch()


@dataclasses.dataclass
class Pending:
    """A gradient whose prior rows are on their way, and whose delayed rows wait."""

    batch: EmbeddingBatch
    following: EmbeddingBatch
    of_tokens: torch.Tensor
    prior: dist.Work


class _AnnouncedRows(torch.autograd.Function):
    """Rows of a batch that are there; their gradient goes to the table's `TableAhead`."""

    @staticmethod
    def forward(ctx: Any, shard: torch.Tensor, ahead: TableAhead, rows: torch.Tensor) -> torch.Tensor:
        ctx.ahead = ahead
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None]:
        ctx.ahead.send(gradients[0])
        return None, None, None


class TableAhead:
    """See above. All ranks make the same calls in the same order.

    Args:
        shard, table: of the module.
        splits: whether gradients go in two parts; a row optimizer calls `step` then.
        priorities: see `lookup.Priorities`.
    """

    def __init__(self, shard: torch.nn.Parameter, table: Table, splits: bool, priorities: Priorities) -> None:
        self._shard, self._table, self.splits, self._priorities = shard, table, splits, priorities
        self._coming: deque[Announced] = deque()
        self._now: Announced | None = None
        self._used = 0
        self._whole: torch.Tensor | None = None
        self._pending: Pending | None = None
        self._delayed: dist.Work | None = None
        self._said = False

    def announce(self, ids: Sequence[torch.Tensor]) -> None:
        """Tells the other ranks of this rank's next batch: the ids of each use of the table in it."""
        tokens = torch.cat([one.reshape(-1) for one in ids]) if len(ids) != 1 else ids[0].reshape(-1)
        backend, columns = self._table.backend, self._table.columns
        told = backend.embedding_announce(
            self._shard, tokens, self._table.split, self._priorities.announcement, NO_TIMEOUT
        )
        rows = self._shard.new_empty(len(tokens), columns)
        self._coming.append(Announced([one.clone() for one in ids], told, rows))

    def start(self) -> None:
        """Looks up what the first batches read."""
        self._look_up_next(None)
        if self.splits and len(self._coming) > 1:
            first, second = self._coming[0], self._coming[1]
            self._look_up(second, second.batch.part_beyond(first.batch), self._priorities.delayed)
            second.has_early = True

    def turn(self) -> None:
        """Goes on to the next batch."""
        if not self._coming[0].has_all:
            self._look_up_next(self._now.batch if self._now else None)
        self._now, self._used, self._whole = self._coming.popleft(), 0, None

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """What the module returns for its next ids of this batch."""
        now = self._checked(ids)
        if self._whole is None:
            for work in now.works:
                work.wait()
            self._whole = _AnnouncedRows.apply(self._shard, self, now.rows)
            assert self._whole is not None
        before = sum(one.numel() for one in now.ids[: self._used])
        self._used += 1
        rows = self._whole[before : before + ids.numel()] if len(now.ids) > 1 else self._whole
        return rows.view(*ids.shape, self._table.columns)

    def send(self, gradient: torch.Tensor) -> None:
        """Sends the gradient of the batch's rows, or of its prior rows. Within a backward pass."""
        assert self._now is not None
        batch = self._now.batch
        self.whole_gradient()
        if self.splits and self._coming and self._shard.grad is None:
            following = self._coming[0].batch
            prior = self._send(batch.part_among(following), gradient)
            self._pending = Pending(batch, following, gradient, prior)
        else:
            accumulate_later(self._shard, self._send(batch, gradient), self._table.sparse)

    def whole_gradient(self) -> None:
        """Adds a gradient of which parts have not gone yet to the parameter's, as if there were no parts."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._say_that_it_is_whole()
        delayed = self._send(pending.batch.part_beyond(pending.following), pending.of_tokens)
        for work in (pending.prior, delayed):
            add_to_gradient(self._shard, work, self._table.sparse)

    def step(self, update: _C.TableUpdate) -> None:
        """Applies what there is of a gradient, and starts what comes after it."""
        if self._pending is None:
            self.settle()
            if self._shard.grad is not None:
                gradient = self._shard.grad.coalesce()
                update(gradient.indices()[0], gradient.values())
                self._shard.grad = None
            return
        pending, self._pending = self._pending, None
        pending.prior.wait()
        update(*pending.prior.get_future().wait())
        self._look_up_next(pending.batch)
        self._send_delayed(pending, update)

    def has_gradient(self) -> bool:
        return self._pending is not None or self._shard.grad is not None

    def settle(self) -> None:
        """Waits until the table has all updates so far."""
        if self._delayed is not None:
            self._delayed.wait()
            self._delayed = None

    def close(self) -> None:
        """Ends the look-ahead: what is on its way comes, what was announced is forgotten."""
        self.whole_gradient()
        self.settle()
        for announced in self._coming:
            announced.announcement.work.wait()
            for work in announced.works:
                work.wait()
        self._coming.clear()
        self._now = self._whole = None

    def _checked(self, ids: torch.Tensor) -> Announced:
        now = self._now
        problem = None
        if now is None:
            problem = "no batch was announced: look rows up inside the loop over LookAhead, or under torch.no_grad()"
        elif self._used == len(now.ids):
            problem = f"the table is looked up more often than the {self._used} times that were announced of the batch"
        elif ids.shape != now.ids[self._used].shape or not torch.equal(ids, now.ids[self._used]):
            problem = "these ids are not those that were announced of the batch: have `ids` return what the model reads"
        if problem is not None:
            self._table.backend.refuse_embedding(problem)  # raises
        assert now is not None
        return now

    def _look_up_next(self, before: EmbeddingBatch | None) -> None:
        """Rows of the next batch that are not there yet; `before`: the batch that was trained on last."""
        announced = self._coming[0] if self._coming else None
        if announced is None or announced.has_all:
            return
        part = announced.batch
        if announced.has_early and before is not None:
            part = part.part_among(before)
        else:
            self.settle()  # it may read delayed rows of the batch before
        self._look_up(announced, part, self._priorities.prior)
        announced.has_all = True

    def _look_up(self, announced: Announced, part: EmbeddingBatch, priority: int) -> None:
        backend = self._table.backend
        announced.works.append(backend.embedding_rows(part, self._shard, announced.rows, priority, NO_TIMEOUT))

    def _send(self, batch: EmbeddingBatch, gradient: torch.Tensor) -> dist.Work:
        backend, padding = self._table.backend, self._table.padding
        return backend.embedding_gradient(batch, gradient, padding, self._priorities.prior, NO_TIMEOUT)

    def _send_delayed(self, pending: Pending, update: _C.TableUpdate) -> None:
        self.settle()  # since rows of the batch after the next may be among its rows
        then = self._coming[1] if len(self._coming) > 1 else None
        early = then.batch.part_beyond(pending.following) if then else None
        self._delayed = self._table.backend.embedding_update(
            pending.batch.part_beyond(pending.following),
            pending.of_tokens,
            self._table.padding,
            update,
            early,
            then.rows if then else pending.of_tokens,
            self._priorities.delayed,
            NO_TIMEOUT,
        )
        if then:
            then.works.append(self._delayed)
            then.has_early = True

    def _say_that_it_is_whole(self) -> None:
        if not self._said:
            warnings.warn(
                "a gradient is needed whole (it is added to another, or clipped), so that its rows do not travel in "
                "two parts in such steps.",
                stacklevel=2,
            )
        self._said = True
