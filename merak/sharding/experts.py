"""Experts that are divided over ranks: rows travel to their experts, and back.

Each rank has some of the experts, and some of the rows. Rows that are sorted by expert (`merak.graph.experts`) lie in
the order of the ranks that have these, so that one all-to-all sends each to its expert and another brings back what
that made of it; in the backward the two are each other's transpose. How many rows travel depends on the data: ranks
tell each other before. This is GShard's expert parallelism (arXiv:2006.16668) without its capacity: nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from merak._torch_compat import group_by_name
from merak._torch_graphs import is_fake
from merak.graph.experts import Dispatched, Experts, combine, dispatch


class Sent(NamedTuple):
    """How many rows travel.

    Attributes:
        to, from_: by rank, how many this one sends there, and receives from there.
        numbers: of each row that comes, the number of its expert among this rank's, in the order in which they come.
        ends: of each of this rank's experts where its rows end, once they are sorted; int32.
    """

    to: list[int]
    from_: list[int]
    numbers: torch.Tensor
    ends: torch.Tensor


class _Exchange(torch.autograd.Function):
    """Rows that go to other ranks, for those that come from them."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, to: list[int], from_: list[int], group: str) -> torch.Tensor:
        ctx.to, ctx.from_, ctx.group = to, from_, group
        return _exchanged(rows, to, from_, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _exchanged(gradient, ctx.from_, ctx.to, ctx.group), None, None, None


def _exchanged(rows: torch.Tensor, to: list[int], from_: list[int], group: str) -> torch.Tensor:
    received = rows.new_empty(sum(from_), *rows.shape[1:])
    dist.all_to_all_single(received, rows.contiguous(), from_, to, group=group_by_name(group))
    return received


class ExpertsOfPart:
    """The experts of one rank. Called as `Experts` is, with this rank's rows and experts.

    Args:
        group: name of the group of the ranks that have the others.
        counts: how many experts each of them has.
        rank: this one's number.
    """

    def __init__(self, whole: Experts, group: str, counts: Sequence[int], rank: int) -> None:
        self._whole, self._group, self._counts = whole, group, list(counts)
        self._own = self._counts[rank]
        self.__name__, self.__module__ = "experts_of_part", __name__

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, /, *given: Any) -> torch.Tensor:
        sent = dispatch(x, index, self._whole.experts)
        if is_fake(x):  # as many rows as it sends, on average
            return combine(self._whole.body(sent.rows, sent.experts, sent.ends, *given), weights, sent.order)
        travel = self._agree(sent)
        rows = _Exchange.apply(sent.rows, travel.to, travel.from_, self._group)
        order = torch.argsort(travel.numbers, stable=True)
        made = self._whole.body(rows.index_select(0, order), travel.numbers[order], travel.ends, *given)
        back = _Exchange.apply(made.index_select(0, torch.argsort(order)), travel.from_, travel.to, self._group)
        return combine(back, weights, sent.order)

    def _agree(self, sent: Dispatched) -> Sent:
        """Tells each rank how many rows of each of its experts will come."""
        counts = torch.diff(sent.ends, prepend=sent.ends.new_zeros(1))
        come = counts.new_empty(len(self._counts) * self._own)
        dist.all_to_all_single(
            come, counts, [self._own] * len(self._counts), self._counts, group=group_by_name(self._group)
        )
        come = come.view(len(self._counts), self._own)
        numbers = torch.arange(self._own, device=come.device).repeat(len(self._counts))
        to = [int(one.sum()) for one in counts.split(self._counts)]
        ends = come.sum(0).cumsum(0).to(torch.int32)
        return Sent(to, come.sum(1).tolist(), numbers.repeat_interleave(come.flatten()), ends)
