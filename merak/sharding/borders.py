"""Borders of a divided dimension, exchanged: each rank has a chunk and gets an interval (csrc/sharding/borders.h).

An interval may go on at the other end of the dimension, so that there are two; either may be empty, lie in another
rank's chunk, or reach over several. All ranks know what all have and need, so one all-to-all with sizes of its own
carries what a rank has not, and no more. The backward is its transpose: gradients of what came from others go back to
them, and are added up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from merak._torch_compat import group_by_name


class Piece(NamedTuple):
    """A part of what a rank needs that one rank has: where it is in the dimension."""

    giver: int
    begin: int
    end: int


class Intervals(NamedTuple):
    """Who has what of dimension `dim`, and needs what.

    Attributes:
        rank: this one.
        have: of each rank, where its chunk begins and ends.
        need: of each rank, where two intervals begin and end, of which the second comes behind the first.
    """

    dim: int
    rank: int
    have: tuple[int, ...]
    need: tuple[int, ...]

    @property
    def length(self) -> int:
        """How much this rank needs."""
        first, first_end, second, second_end = self.need[4 * self.rank : 4 * self.rank + 4]
        return first_end - first + second_end - second


@functools.lru_cache(maxsize=4096)
def pieces(have: Sequence[int], need: Sequence[int]) -> list[list[Piece]]:
    """By rank, the pieces of what it needs, in their order."""
    return [list(_pieces_of(have, need[at : at + 4])) for at in range(0, len(need), 4)]


def _pieces_of(have: Sequence[int], need: Sequence[int]) -> Iterator[Piece]:
    for first, last in (need[:2], need[2:]):
        for giver in range(len(have) // 2):
            begin, end = max(first, have[2 * giver]), min(last, have[2 * giver + 1])
            if begin < end:
                yield Piece(giver, begin, end)


# What travels ---------------------------------------------------------------------------------------------------------


@torch.library.custom_op("merak::sharding_borders", mutates_args=())
def _borders(x: torch.Tensor, group: str, dim: int, rank: int, have: list[int], need: list[int]) -> torch.Tensor:
    of_ranks, begin = pieces(tuple(have), tuple(need)), have[2 * rank]

    def own(piece: Piece) -> torch.Tensor:
        return x.narrow(dim, piece.begin - begin, piece.end - piece.begin)

    given = [[own(piece) for piece in taken if piece.giver == rank] for taken in of_ranks]
    mine = of_ranks[rank]
    others = [[piece.end - piece.begin for piece in mine if piece.giver == giver] for giver in range(len(of_ranks))]
    received = _swapped(x, group, dim, rank, given, others) if _travels(of_ranks) else []
    parts = [own(piece) if piece.giver == rank else received[piece.giver].pop(0) for piece in mine]
    return torch.cat(parts, dim) if parts else x.new_empty(_resized(x, dim, 0))


@torch.library.custom_op("merak::sharding_borders_back", mutates_args=())
def _borders_back(
    gradient: torch.Tensor, group: str, dim: int, rank: int, have: list[int], need: list[int]
) -> torch.Tensor:
    of_ranks, begin = pieces(tuple(have), tuple(need)), have[2 * rank]
    given: list[list[torch.Tensor]] = [[] for _ in of_ranks]
    at = 0
    for piece in of_ranks[rank]:
        given[piece.giver].append(gradient.narrow(dim, at, piece.end - piece.begin))
        at += piece.end - piece.begin
    mine = [[piece for piece in taken if piece.giver == rank] for taken in of_ranks]
    lengths = [[piece.end - piece.begin for piece in taken] for taken in mine]
    received = _swapped(gradient, group, dim, rank, given, lengths) if _travels(of_ranks) else [[] for _ in of_ranks]
    received[rank] = given[rank]
    total = gradient.new_zeros(_resized(gradient, dim, have[2 * rank + 1] - begin))
    for of_taker, parts in zip(mine, received, strict=True):
        for piece, part in zip(of_taker, parts, strict=True):
            total.narrow(dim, piece.begin - begin, piece.end - piece.begin).add_(part)
    return total


@_borders.register_fake
def _(x: torch.Tensor, group: str, dim: int, rank: int, have: list[int], need: list[int]) -> torch.Tensor:
    return x.new_empty(_resized(x, dim, Intervals(dim, rank, tuple(have), tuple(need)).length))


@_borders_back.register_fake
def _(gradient: torch.Tensor, group: str, dim: int, rank: int, have: list[int], need: list[int]) -> torch.Tensor:
    return gradient.new_empty(_resized(gradient, dim, have[2 * rank + 1] - have[2 * rank]))


def _travels(of_ranks: Sequence[Sequence[Piece]]) -> bool:
    return any(piece.giver != taker for taker, taken in enumerate(of_ranks) for piece in taken)


def _swapped(
    x: torch.Tensor, group: str, dim: int, rank: int, given: list[list[torch.Tensor]], lengths: list[list[int]]
) -> list[list[torch.Tensor]]:
    """What others give for what this rank gives them: by rank, parts of these lengths. Nothing of its own."""
    flat = [torch.cat([part.reshape(-1) for part in parts]) if parts else x.new_empty(0) for parts in given]
    flat[rank] = x.new_empty(0)
    each = math.prod(_resized(x, dim, 1))
    counts = [0 if giver == rank else each * sum(parts) for giver, parts in enumerate(lengths)]
    arrived = x.new_empty(sum(counts))
    dist.all_to_all_single(
        arrived, torch.cat(flat), counts, [part.numel() for part in flat], group=group_by_name(group)
    )
    return [
        [] if giver == rank else _unpacked(x, dim, of_giver, lengths[giver])
        for giver, of_giver in enumerate(arrived.split(counts))
    ]


def _unpacked(x: torch.Tensor, dim: int, flat: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    each = flat.numel() // sum(lengths) if lengths else 0
    parts = flat.split([each * length for length in lengths])
    return [part.view(_resized(x, dim, length)) for part, length in zip(parts, lengths, strict=True)]


def _resized(x: torch.Tensor, dim: int, size: int) -> list[int]:
    return [*x.shape[:dim], size, *x.shape[dim + 1 :]]


# Differentiable steps -------------------------------------------------------------------------------------------------


class _Borders(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str, intervals: Intervals) -> Any:
        ctx.group, ctx.intervals = group, intervals
        dim, rank, have, need = intervals
        return _borders(x, group, dim, rank, list(have), list(need))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        dim, rank, have, need = ctx.intervals
        return _borders_back(gradient, ctx.group, dim, rank, list(have), list(need)), None, None


def borders(x: torch.Tensor, group: str, *intervals: Any) -> Any:
    """What this rank needs of a dimension of which it has a chunk.

    Args:
        intervals: as `Intervals`.
    """
    return _Borders.apply(x, group, Intervals(*intervals))


def interval(x: torch.Tensor, group: str, *intervals: Any) -> torch.Tensor:
    """What this rank needs of a dimension that it has all of."""
    dim, rank, _, need = Intervals(*intervals)
    first, first_end, second, second_end = need[4 * rank : 4 * rank + 4]
    part = x.narrow(dim, first, first_end - first)
    return part if second == second_end else torch.cat([part, x.narrow(dim, second, second_end - second)], dim)
