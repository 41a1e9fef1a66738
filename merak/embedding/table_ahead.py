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

This holds where each batch has one backward pass and then one step. Whatever else a loop does, a gradient then goes
whole; and rows that were looked up before a change of the table that nobody could foresee are looked up again.

Source: S. Li et al., "EmbRace: Accelerating Sparse Communication for Distributed Training of Deep Neural Networks",
2022, with lookups split as gradients are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from merak import _C
from merak.embedding.lookup import NO_TIMEOUT, Priorities, Table, accumulate_later, add_to_gradient

if TYPE_CHECKING:
    from merak._C import EmbeddingBatch, EmbeddingBatchPair, EmbeddingLookup


@dataclasses.dataclass
class Announced:
    """A batch that the ranks have told each other of: this rank's ids, and what was looked up of their rows."""

    ids: list[torch.Tensor]
    announcement: EmbeddingLookup
    parts: torch.futures.Future[EmbeddingBatchPair] | None
    """Of the batch before it, if there is one, and of itself; where gradients are split."""
    rows: torch.Tensor | None
    """Until the model has them."""
    works: list[dist.Work] = dataclasses.field(default_factory=list)
    version: int = 0
    """Of the table, when the first of them were looked up."""
    has_early: bool = False
    """Rows that the batch before it does not read."""
    has_all: bool = False

    @property
    def batch(self) -> EmbeddingBatch:
        self.announcement.work.wait()
        return self.announcement.batch()

    @property
    def pair(self) -> EmbeddingBatchPair:
        self.announcement.work.wait()
        assert self.parts is not None
        return self.parts.wait()

    def come_by(self, work: dist.Work, version: int) -> None:
        """Rows come by that, of a table that has this version now."""
        if not self.works:
            self.version = version
        self.works.append(work)

    def forget(self) -> None:
        """Has its rows looked up anew."""
        for work in self.works:
            work.wait()
        self.works.clear()
        self.has_early = self.has_all = False


@dataclasses.dataclass
class Pending:
    """A gradient whose prior rows are on their way, and whose delayed rows wait. What the parameter has meanwhile for a
    gradient is not a number, so that a norm of it is none, either."""

    of: Announced
    delayed: EmbeddingBatch
    of_tokens: torch.Tensor
    prior: dist.Work
    stand_in: torch.Tensor


class _AnnouncedRows(torch.autograd.Function):
    """Rows of a batch that are there; their gradient goes to the table's `TableAhead`."""

    @staticmethod
    def forward(ctx: Any, shard: torch.Tensor, ahead: TableAhead, announced: Announced) -> torch.Tensor:
        ctx.ahead, ctx.announced = ahead, announced
        rows, announced.rows = announced.rows, None
        assert rows is not None
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None]:
        ctx.ahead.send(gradients[0], ctx.announced)
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
        self._is_whole = False  # the parameter's gradient, or will be at the end of the backward pass
        self._said = False

    def announce(self, ids: Sequence[torch.Tensor]) -> None:
        """Tells the other ranks of this rank's next batch: the ids of each use of the table in it."""
        tokens = torch.cat([one.reshape(-1) for one in ids]) if len(ids) != 1 else ids[0].reshape(-1)
        told = self._announce(tokens)
        before = self._coming[-1] if self._coming else self._now
        parts = None
        if self.splits and before is not None:
            parts = told.work.get_future().then(functools.partial(_parts, before.announcement, told))
        rows = self._shard.new_empty(*(ids[0].shape if len(ids) == 1 else tokens.shape), self._table.columns)
        self._coming.append(Announced([one.clone() for one in ids], told, parts, rows))

    def announce_nothing(self) -> EmbeddingLookup:
        """Takes part, at the end of this rank's loader, in the announcement of a batch that others may have."""
        return self._announce(torch.empty(0, dtype=torch.int64))

    def refuse_further_rows(self, end: EmbeddingLookup, batches: int) -> None:
        """Raises ValueError if the announcement is of a batch, which this rank lacks after so many."""
        end.work.wait()
        if end.batch().rows:
            self._table.backend.refuse_embedding(
                f"this rank's data loader has ended after {batches} batches, and another rank's has more: all ranks "
                "need as many, so let the loader drop the last ones, or pad them, as DistributedSampler does"
            )

    def start(self) -> None:
        """Looks up what the first batches read."""
        self._look_up_next()
        if self.splits and len(self._coming) > 1 and self._shard.grad is None:
            second = self._coming[1]
            self._look_up(second, second.pair.early, self._priorities.delayed)
            second.has_early = True

    def turn(self) -> None:
        """Goes on to the next batch."""
        if self._now is not None and 0 < self._used < len(self._now.ids):
            text = (
                f"the table was looked up {self._used} times for a batch of which {len(self._now.ids)} were announced"
            )
            self._table.backend.refuse_embedding(text)  # raises
        self._is_whole = self._is_whole and self._shard.grad is not None
        if not self._coming[0].has_all:
            self._look_up_next()
        self._now, self._used, self._whole = self._coming.popleft(), 0, None

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """What the module returns for its next ids of this batch."""
        now = self._checked(ids)
        if self._whole is None:
            if now.version != self._shard._version:
                self.settle()
                self._look_up_again(now)
            for work in now.works:
                work.wait()
            now.works.clear()  # which have the rows: and these will have a gradient function that has `now`
            self._whole = _AnnouncedRows.apply(self._shard, self, now)
            assert self._whole is not None
        if len(now.ids) == 1:
            self._used = 1
            return self._whole
        before = sum(one.numel() for one in now.ids[: self._used])
        self._used += 1
        return self._whole[before : before + ids.numel()].view(*ids.shape, self._table.columns)

    def send(self, gradient: torch.Tensor, of: Announced) -> None:
        """Sends the gradient of a batch's rows, or of its prior rows. Within a backward pass."""
        self.whole_gradient()
        is_next = of is self._now and bool(self._coming) and not self._coming[0].has_all
        if self.splits and is_next and not self._is_whole and self._shard.grad is None:
            pair = self._coming[0].pair
            prior = self._send(pair.prior, gradient)
            stand_in = _not_a_number(self._shard)
            self._pending = Pending(of, pair.delayed, gradient, prior, stand_in)
            self._shard.grad = stand_in
        else:
            self._is_whole = True
            accumulate_later(self._shard, self._send(of.batch, gradient), self._table)

    def whole_gradient(self) -> None:
        """Adds a gradient of which parts have not gone yet to the parameter's, as if there were no parts."""
        pending, self._pending = self._still_pending(), None
        if pending is None:
            return
        self._say_that_it_is_whole()
        self._is_whole, self._shard.grad = True, None
        delayed = self._send(pending.delayed, pending.of_tokens)
        for work in (pending.prior, delayed):
            add_to_gradient(self._shard, work, self._table)

    def step(self, update: _C.TableUpdate) -> None:
        """Applies what there is of a gradient, and starts what comes after it."""
        pending = self._still_pending()
        if pending is None or pending.of is not self._now:
            self.whole_gradient()
            self._step_whole(update)
            return
        self._pending = self._shard.grad = None
        pending.prior.wait()
        update(*pending.prior.get_future().wait())
        self._look_up_next()
        self._send_delayed(pending, update)

    def has_gradient(self) -> bool:
        return self._still_pending() is not None or self._shard.grad is not None

    def settle(self) -> None:
        """Waits until the table has all updates so far."""
        if self._delayed is not None:
            self._delayed.wait()
            self._delayed = None

    def close(self, to_the_end: bool) -> None:
        """Ends the look-ahead: what is on its way comes, what was announced is forgotten. `to_the_end`: whether all
        ranks end it here, as far as is known; if not, nothing is started any more."""
        if to_the_end:
            self.whole_gradient()
        elif self._pending is not None and self._shard.grad is self._pending.stand_in:
            warnings.warn("a loop over LookAhead ends before step(): the last gradient is lost.", stacklevel=2)
            self._shard.grad = None
        self._pending = None
        # A group that has failed has said so to the loop, or will to the next collective.
        with contextlib.nullcontext() if to_the_end else contextlib.suppress(dist.DistError):
            self._wait_for_all()
        self._coming.clear()
        self._now = self._whole = self._delayed = None

    def _wait_for_all(self) -> None:
        self.settle()
        for announced in self._coming:
            announced.announcement.work.wait()
            for work in announced.works:
                work.wait()

    def _announce(self, tokens: torch.Tensor) -> EmbeddingLookup:
        return self._table.backend.embedding_announce(
            self._shard, tokens, self._table.split, self._table.padding, self._priorities.announcement, NO_TIMEOUT
        )

    def _checked(self, ids: torch.Tensor) -> Announced:
        now = self._now
        problem = None
        if now is None:
            problem = "no batch was announced: look rows up inside the loop over LookAhead, or under torch.no_grad()"
        elif self._used == len(now.ids):
            problem = (
                f"the table is looked up more often than the {self._used} times that were announced of the batch; "
                "activation checkpointing does so, too, with use_reentrant=False"
            )
        elif ids.shape != now.ids[self._used].shape or not torch.equal(ids, now.ids[self._used]):
            problem = "these ids are not those that were announced of the batch: have `ids` return what the model reads"
        if problem is not None:
            self._table.backend.refuse_embedding(problem)  # raises
        assert now is not None
        return now

    def _look_up_next(self) -> None:
        """Rows of the next batch that are not there yet."""
        announced = self._coming[0] if self._coming else None
        if announced is None or announced.has_all:
            return
        if not announced.has_early:
            self.settle()  # it may read delayed rows of the batch before
        part = announced.pair.late if announced.has_early else announced.batch
        self._look_up(announced, part, self._priorities.prior)
        announced.has_all = True

    def _look_up(self, announced: Announced, part: EmbeddingBatch, priority: int) -> None:
        backend = self._table.backend
        assert announced.rows is not None
        work = backend.embedding_rows(part, self._shard, announced.rows, priority, NO_TIMEOUT)
        announced.come_by(work, self._shard._version)

    def _look_up_again(self, announced: Announced) -> None:
        announced.forget()
        self._look_up(announced, announced.batch, self._priorities.prior)
        announced.has_all = True

    def _still_pending(self) -> Pending | None:
        """The gradient in parts, unless it was dropped, by zero_grad."""
        pending, gradient = self._pending, self._shard.grad
        if pending is not None and gradient is None:
            self._pending = None
        elif pending is not None and (gradient is not pending.stand_in or pending.stand_in._version != 0):
            raise RuntimeError(
                "weight.grad was changed, which stands for rows that are on their way: call whole_gradient() of the "
                "module first, clip by merak.embedding.clip_grad_norm_, and drop gradients by setting them to None."
            )
        return self._pending

    def _step_whole(self, update: _C.TableUpdate) -> None:
        """Applies a whole gradient. It may be of rows that were looked up already."""
        self.settle()
        for announced in self._coming:
            announced.forget()
        now = self._now if self._whole is None else None
        if now is not None:
            now.forget()
        if self._shard.grad is not None:
            gradient = self._shard.grad.coalesce()
            update(gradient.indices()[0], gradient.values())
        self._is_whole, self._shard.grad = False, None
        if now is not None:
            self._look_up_again(now)

    def _send(self, batch: EmbeddingBatch, gradient: torch.Tensor) -> dist.Work:
        return self._table.backend.embedding_gradient(batch, gradient, self._priorities.prior, NO_TIMEOUT)

    def _send_delayed(self, pending: Pending, update: _C.TableUpdate) -> None:
        self.settle()  # since rows of the batch after the next may be among its rows
        then = self._coming[1] if len(self._coming) > 1 else None
        early = then.pair.early if then else None
        self._delayed = self._table.backend.embedding_update(
            pending.delayed,
            pending.of_tokens,
            update,
            early,
            then.rows if then and then.rows is not None else pending.of_tokens,
            self._priorities.delayed,
            NO_TIMEOUT,
        )
        if then:
            then.come_by(self._delayed, self._shard._version)
            then.has_early = True

    def _say_that_it_is_whole(self) -> None:
        if not self._said:
            warnings.warn(
                "a gradient is needed whole (it is added to another, or clipped), so that its rows do not travel in "
                "two parts in such steps.",
                stacklevel=2,
            )
        self._said = True


def _parts(first: EmbeddingLookup, second: EmbeddingLookup, _: torch.futures.Future[Any]) -> EmbeddingBatchPair:
    """Made on a thread of the backend, beside what the model does."""
    first.work.wait()
    return _C.EmbeddingBatchPair(first.batch(), second.batch())


def _not_a_number(shard: torch.Tensor) -> torch.Tensor:
    """A gradient of one row, if there is a row."""
    rows = min(len(shard), 1)
    values = shard.new_full((rows, shard.size(1)), float("nan"))
    ids = torch.zeros(1, rows, dtype=torch.int64)
    return torch.sparse_coo_tensor(ids, values, shard.shape, check_invariants=False, is_coalesced=True)
