"""Resharding steps as differentiable functions, which lowered graphs call.

Each step has its transpose for a backward (csrc/sharding/reshard.h says which): the gradient of what is the same on all
ranks is the same on all ranks, that of a divided tensor is divided. What travels is an opaque operation of PyTorch
(`merak::...`), so that a graph of these can be traced again, by torch.compile too.

A dimension that is divided is (outer, size, inner), and its `size` is cut into chunks of ceil(size / ranks); the last
ranks may have less. Chunks are padded where they travel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from merak._torch_compat import group_by_name
from merak._torch_graphs import is_fake
from merak.sharding.symbols import chunk_of


class Cut(NamedTuple):
    """Where a tensor is divided: dimension `dim` is (outer, size, inner), of which `size` is, over `ranks`; `rank` is
    this one's number among them."""

    dim: int
    outer: int
    size: int
    inner: int
    ranks: int
    rank: int

    @property
    def own(self) -> int:
        """How much of `size` this rank has."""
        own: int = chunk_of(self.size, self.ranks, self.rank)  # or a symbol
        return own


def begin_of(size: int, ranks: int, rank: int) -> int:
    """Where a rank's chunk of a size begins."""
    return min(rank * -(-size // ranks), size)


# What travels ---------------------------------------------------------------------------------------------------------


@dataclass
class Transfer:
    """A collective under way."""

    result: torch.Tensor
    work: dist.Work | None
    finish: Callable[[torch.Tensor], torch.Tensor]

    def wait(self) -> torch.Tensor:
        """What came of it."""
        if self.work is not None:
            self.work.wait()
        return self.finish(self.result)


Start = Callable[[torch.Tensor, str, tuple[int, ...]], Transfer]


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def start_sum(x: torch.Tensor, group: str, cut: tuple[int, ...] = ()) -> Transfer:
    """Begins to add up."""
    total = x.clone(memory_format=torch.contiguous_format)
    return Transfer(total, dist.all_reduce(total, group=group_by_name(group), async_op=True), _as_it_is)


def start_gather(x: torch.Tensor, group: str, cut: tuple[int, ...]) -> Transfer:
    """Begins to gather chunks."""
    chunks, mine = _room_for_chunks(x, Cut(*cut))
    work = dist.all_gather_into_tensor(chunks.view(-1), mine.view(-1), group=group_by_name(group), async_op=True)
    return Transfer(chunks, work, lambda all_chunks: _joined(all_chunks, Cut(*cut)))


def start_scatter_sum(x: torch.Tensor, group: str, cut: tuple[int, ...]) -> Transfer:
    """Begins to add up chunks, of which each rank gets its own."""
    chunks = _in_chunks(x, Cut(*cut))
    mine = torch.empty_like(chunks[0])
    work = dist.reduce_scatter_tensor(mine.view(-1), chunks.view(-1), group=group_by_name(group), async_op=True)
    return Transfer(mine, work, lambda chunk: _trimmed(chunk, Cut(*cut)))


@torch.library.custom_op("merak::sharding_sum", mutates_args=())
def _sum(x: torch.Tensor, group: str) -> torch.Tensor:
    return start_sum(x, group).wait()


@torch.library.custom_op("merak::sharding_gather", mutates_args=())
def _gather(x: torch.Tensor, group: str, cut: list[int]) -> torch.Tensor:
    return start_gather(x, group, tuple(cut)).wait()


@torch.library.custom_op("merak::sharding_scatter_sum", mutates_args=())
def _scatter_sum(x: torch.Tensor, group: str, cut: list[int]) -> torch.Tensor:
    return start_scatter_sum(x, group, tuple(cut)).wait()


@torch.library.custom_op("merak::sharding_exchange", mutates_args=())
def _exchange(x: torch.Tensor, group: str, gathered: list[int], divided: list[int]) -> torch.Tensor:
    whole, part = Cut(*gathered), Cut(*divided)
    chunk = -(-whole.size // whole.ranks)
    sent = _in_chunks(together(_padded(apart(x, whole), whole.dim + 1, chunk), whole.dim), part)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received.view(-1), sent.view(-1), group=group_by_name(group))
    pieces = [_trimmed(one, part) for one in received]
    chunks = torch.stack([apart(piece, whole, chunk) for piece in pieces])
    return _joined(chunks, whole)


@_sum.register_fake
def _(x: torch.Tensor, group: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_gather.register_fake
def _(x: torch.Tensor, group: str, cut: list[int]) -> torch.Tensor:
    return x.new_empty(_resized(x, Cut(*cut), cut[2]))


@_scatter_sum.register_fake
def _(x: torch.Tensor, group: str, cut: list[int]) -> torch.Tensor:
    return x.new_empty(_resized(x, Cut(*cut), Cut(*cut).own))


@_exchange.register_fake
def _(x: torch.Tensor, group: str, gathered: list[int], divided: list[int]) -> torch.Tensor:
    wide = x.new_empty(_resized(x, Cut(*gathered), gathered[2]))
    return x.new_empty(_resized(wide, Cut(*divided), Cut(*divided).own))


def fake_resized(x: torch.Tensor, cut: Cut, size: int) -> torch.Tensor:
    """A fake tensor made of another, as autograd knows too, with another size in the place of the one that is cut."""
    resized = x.new_empty(_resized(x, cut, size))
    return x.sum() + resized if x.requires_grad else resized


def _resized(x: torch.Tensor, cut: Cut, size: int) -> list[int]:
    return [*x.shape[: cut.dim], cut.outer * size * cut.inner, *x.shape[cut.dim + 1 :]]


def apart(x: torch.Tensor, cut: Cut, size: int | None = None) -> torch.Tensor:
    """The dimension as three."""
    middle = x.shape[cut.dim] // (cut.outer * cut.inner) if size is None else size
    return x.reshape(*x.shape[: cut.dim], cut.outer, middle, cut.inner, *x.shape[cut.dim + 1 :])


def together(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Three dimensions, from `dim` on, as one."""
    return x.flatten(dim, dim + 2)


def _padded(x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    if x.shape[dim] == size:
        return x
    longer = x.new_zeros(*x.shape[:dim], size, *x.shape[dim + 1 :])
    longer.narrow(dim, 0, x.shape[dim]).copy_(x)
    return longer


def _room_for_chunks(x: torch.Tensor, cut: Cut) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for the chunks of all ranks, for `_joined`, and this rank's chunk."""
    mine = _padded(apart(x, cut), cut.dim + 1, -(-cut.size // cut.ranks)).contiguous()
    return mine.new_empty(cut.ranks, *mine.shape), mine


def _in_chunks(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """(ranks, ..., outer, chunk, inner, ...), padded."""
    chunk = -(-cut.size // cut.ranks)
    wide = _padded(apart(x, cut, cut.size), cut.dim + 1, cut.ranks * chunk)
    chunks: torch.Tensor = wide.unflatten(cut.dim + 1, (cut.ranks, chunk))
    return chunks.movedim(cut.dim + 1, 0).contiguous()


def _joined(chunks: torch.Tensor, cut: Cut) -> torch.Tensor:
    """The tensor whose padded chunks (ranks, ..., outer, chunk, inner, ...) these are."""
    wide = chunks.movedim(0, cut.dim + 1).flatten(cut.dim + 1, cut.dim + 2)
    return together(wide.narrow(cut.dim + 1, 0, cut.size), cut.dim).contiguous()


def _trimmed(chunk: torch.Tensor, cut: Cut) -> torch.Tensor:
    """The part of a tensor whose padded chunk (..., outer, chunk, inner, ...) this is."""
    return together(chunk.narrow(cut.dim + 1, 0, cut.own).contiguous(), cut.dim)


# Differentiable steps -------------------------------------------------------------------------------------------------


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> Any:
        return _sum(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return gradient, None


class _Vary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> Any:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _sum(gradient, ctx.group), None


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, is_first: bool) -> Any:
        ctx.is_first = is_first
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return gradient if ctx.is_first else torch.zeros_like(gradient), None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str, varies: bool, cut: Cut) -> Any:
        ctx.group, ctx.varies, ctx.cut = group, varies, cut
        return _gather(x, group, list(cut))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        if gradient.is_sparse:  # of an embedding whose rows were gathered
            gradient = gradient.to_dense()
        if ctx.varies:
            return _scatter_sum(gradient, ctx.group, list(ctx.cut)), None, None, None
        return own_part(gradient, ctx.cut), None, None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str, cut: Cut) -> Any:
        ctx.group, ctx.cut = group, cut
        return _scatter_sum(x, group, list(cut))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _gather(gradient, ctx.group, list(ctx.cut)), None, None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str, gathered: Cut, divided: Cut) -> Any:
        ctx.group, ctx.gathered, ctx.divided = group, gathered, divided
        return _exchange(x, group, list(gathered), list(divided))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _exchange(gradient, ctx.group, list(ctx.divided), list(ctx.gathered)), None, None, None


class _Slice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str, cut: Cut) -> Any:
        ctx.group, ctx.cut = group, cut
        return own_part(x, cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _gather(gradient, ctx.group, list(ctx.cut)), None, None


def own_part(x: torch.Tensor, cut: Cut) -> torch.Tensor:
    """This rank's chunk of a whole tensor."""
    if is_fake(x):
        return fake_resized(x, cut, cut.own)
    begin = begin_of(cut.size, cut.ranks, cut.rank)
    part = apart(x, cut, cut.size).narrow(cut.dim + 1, begin, cut.own)
    return together(part, cut.dim).contiguous()


def all_reduce(x: torch.Tensor, group: str) -> Any:
    """A partial sum becomes the sum."""
    return _AllReduce.apply(x, group)


def vary(x: torch.Tensor, group: str) -> Any:
    """What is the same everywhere, for use in what is not: its gradients are added up."""
    return _Vary.apply(x, group)


def once(x: torch.Tensor, is_first: bool) -> Any:
    """What is used alike by several ranks, of whose equal gradients one is to be counted: that of the first."""
    return _Once.apply(x, is_first)


def all_gather(x: torch.Tensor, group: str, *cut: int) -> Any:
    """A divided tensor becomes whole."""
    return _AllGather.apply(x, group, False, Cut(*cut))


def all_gather_vary(x: torch.Tensor, group: str, *cut: int) -> Any:
    """`all_gather`, then `vary`: in the backward a reduce-scatter."""
    return _AllGather.apply(x, group, True, Cut(*cut))


def reduce_scatter(x: torch.Tensor, group: str, *cut: int) -> Any:
    """A partial sum becomes the sum, divided."""
    return _ReduceScatter.apply(x, group, Cut(*cut))


def all_to_all(x: torch.Tensor, group: str, gathered: tuple[int, ...], divided: tuple[int, ...]) -> Any:
    """A tensor that is divided in one place becomes divided in another."""
    return _AllToAll.apply(x, group, Cut(*gathered), Cut(*divided))


def slice_own(x: torch.Tensor, group: str, *cut: int) -> Any:
    """The part of this rank of what is the same everywhere."""
    return _Slice.apply(x, group, Cut(*cut))
