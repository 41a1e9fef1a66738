"""`merak.redistribute`."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate

import merak.backend
from merak import _C, _torch_compat
from merak.resharding import layouts, waiting
from merak.resharding.layouts import LayoutTuple, PlacementLike
from merak.resharding.plan import DEFAULT_MAX_STAGING, Move, ReshardPlan, plan_of, start
from merak.resharding.topology import NO_TIMEOUT, Topology
from merak.resharding.work import ReshardWork


@overload
def redistribute(
    x: DTensor,
    mesh: DeviceMesh,
    placements: Sequence[PlacementLike],
    *,
    dtype: torch.dtype | None = ...,
    out: DTensor | None = ...,
    async_op: Literal[False] = ...,
    timeout: datetime.timedelta | None = ...,
) -> DTensor: ...
@overload
def redistribute(
    x: DTensor,
    mesh: DeviceMesh,
    placements: Sequence[PlacementLike],
    *,
    dtype: torch.dtype | None = ...,
    out: DTensor | None = ...,
    async_op: Literal[True],
    timeout: datetime.timedelta | None = ...,
) -> ReshardWork[DTensor]: ...
def redistribute(
    x: DTensor,
    mesh: DeviceMesh,
    placements: Sequence[PlacementLike],
    *,
    dtype: torch.dtype | None = None,
    out: DTensor | None = None,
    async_op: bool = False,
    timeout: datetime.timedelta | None = None,
) -> DTensor | ReshardWork[DTensor]:
    """The same tensor on a mesh of any other ranks, in any other placements.

    Called by all ranks of both meshes. Other ranks may call it, and get what DTensor gives those outside a mesh: a
    DTensor whose local tensor is empty. They need not. Differentiable: the gradient goes the way back, at which all of
    these ranks have to take part, too.

    Args:
        x: on a rank outside its mesh, the DTensor that it has there: what counts is shape, dtype, mesh and placements.
        mesh: the target; over the default group, as x's.
        placements: a Shard, Replicate or Partial for each dimension of `mesh`. To Partial("sum") the value goes to
            coordinate 0 and zeros to the others; to "avg", "min" and "max" it goes to all.
        dtype: that of the result; x's if None. Cast where that makes fewer bytes to send, and after values were added
            up.
        out: a DTensor of that shape, dtype, mesh and placements to put the result into; not differentiable.
        async_op: return a Work at once, whose `result()` is the tensor.
        timeout: the group's, if None.

    Raises:
        ValueError: the arguments are wrong; nothing has been sent.
        torch.distributed.DistBackendError: ranks have asked for different things (on all ranks, and nothing has been
            moved), or the timeout has passed.
        torch.distributed.DistNetworkError: a rank has died or left.
    """
    ranks, backend = _meet(x, mesh)
    try:
        asked = _ask(x, mesh, placements, dtype, out, ranks)
        plan = None if backend is None else _plan(asked, backend, timeout)
        result = _empty(asked) if out is None else out
    except Exception as error:  # whatever it is: the others must not wait for this rank
        if backend is not None and not isinstance(error, dist.DistError):
            backend.refuse_reshard(f"redistribute: {error}")  # raises, here and on the others
        raise
    differentiable = out is None and torch.is_grad_enabled() and x.requires_grad
    work = _start(x, asked, plan, backend, result, differentiable, ranks, timeout)
    return work if async_op else work.result()


def _meet(x: DTensor, mesh: DeviceMesh) -> tuple[tuple[int, ...], _C.Backend | None]:
    """The ranks of both meshes, rising, and their group; None for it on other ranks."""
    if not isinstance(x, DTensor):
        raise ValueError(
            f"redistribute: x is a {type(x).__name__}, and has to be a DTensor: distribute_tensor(x, mesh, placements) "
            "and DTensor.from_local make one."
        )
    if not isinstance(mesh, DeviceMesh):
        raise ValueError(f"redistribute: the target is a {type(mesh).__name__}, and has to be a DeviceMesh.")
    if mesh.device_type != x.device_mesh.device_type:
        raise ValueError(f"redistribute: x is on {x.device_mesh.device_type}, and the target on {mesh.device_type}.")
    ranks = tuple(sorted({*layouts.mesh_of(x.device_mesh)[1], *layouts.mesh_of(mesh)[1]}))
    backend = merak.backend.of_group(None)
    if dist.get_rank() not in ranks:
        return ranks, None
    return ranks, backend if len(ranks) == backend.size() else backend.over(list(ranks))


class _Asked(NamedTuple):
    """What all ranks must ask for alike."""

    move: Move  # of ranks as their group numbers them
    place: int  # of this rank among them; -1 outside
    mesh: DeviceMesh
    placements: tuple[Placement, ...]


def _ask(
    x: DTensor,
    mesh: DeviceMesh,
    placements: Sequence[PlacementLike],
    dtype: torch.dtype | None,
    out: DTensor | None,
    ranks: tuple[int, ...],
) -> _Asked:
    index_of = {rank: index for index, rank in enumerate(ranks)}
    wanted = _placements(placements, x.dim())
    source = layouts.layout_of_dtensor(x, index_of.__getitem__)
    target = layouts.layout_of(mesh, wanted, x.dim(), index_of.__getitem__)
    move = Move("x", tuple(x.shape), x.dtype, dtype or x.dtype, source, target)
    _C.check_move(move.for_cxx(), len(ranks))
    if out is not None:
        _check_out(out, x, move, mesh, wanted)
    if x.requires_grad and torch.is_grad_enabled() and _torch_compat.shard_order(x):
        raise ValueError(
            "x is not sharded from left to right, which its gradient could not be; call this under torch.no_grad()"
        )
    return _Asked(move, index_of.get(dist.get_rank(), -1), mesh, wanted)


def _placements(placements: Sequence[PlacementLike], dims: int) -> tuple[Placement, ...]:
    if isinstance(placements, Placement | str):
        placements = (placements,)
    tuples = [layouts.placement_tuple(placement, dims) for placement in placements]
    return tuple(layouts.placement_from(layouts.placement_text(one)) for one in tuples)


def _check_out(out: DTensor, x: DTensor, move: Move, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> None:
    if not isinstance(out, DTensor):
        raise ValueError(f"out= is a {type(out).__name__}, and has to be a DTensor")
    if tuple(out.shape) != move.shape or out.dtype != move.target_dtype:
        raise ValueError(f"out= is {tuple(out.shape)} of {out.dtype}; expected {move.shape} of {move.target_dtype}")
    expected, found = layouts.layout_of(mesh, placements, len(move.shape)), layouts.layout_of_dtensor(out)
    if found != expected:
        raise ValueError(f"out= is {layouts.text_of(found)}; expected {layouts.text_of(expected)}")
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise ValueError("out= cannot be differentiated; call it under torch.no_grad(), or without out=")


def _plan(asked: _Asked, backend: _C.Backend, timeout: datetime.timedelta | None) -> ReshardPlan:
    topology = Topology._of_network(backend.network(timeout or NO_TIMEOUT))
    return plan_of((asked.move,), topology, DEFAULT_MAX_STAGING)


def _start(
    x: DTensor,
    asked: _Asked,
    plan: ReshardPlan | None,
    backend: _C.Backend | None,
    result: DTensor,
    differentiable: bool,
    ranks: tuple[int, ...],
    timeout: datetime.timedelta | None,
) -> ReshardWork[DTensor]:
    def finish() -> DTensor:
        if not differentiable:
            return result
        with torch.enable_grad():  # as it was at the call
            moved: DTensor = _Moved.apply(x, lambda: result)
        return moved

    if plan is None or backend is None:
        return ReshardWork(None, finish)
    src = {"x": _torch_compat.local_of(x)} if asked.place in asked.move.source[1] else {}
    dst = {"x": _torch_compat.local_of(result)} if asked.place in asked.move.target[1] else {}
    meeting = waiting.Meeting(backend)
    moving = meeting.begin(
        lambda: start(plan, backend, ranks, src, dst, timeout, layouts.device_of(asked.mesh.device_type))
    )
    return moving.then(finish, meeting.wait)


def _empty(asked: _Asked) -> DTensor:
    """Of the target's layout, nothing in it yet."""
    move = asked.move
    sizes = (0,) if asked.place not in move.target[1] else _local_shape(move.shape, move.target, asked.place)
    local = torch.empty(sizes, dtype=move.target_dtype, device=layouts.device_of(asked.mesh.device_type))
    return _torch_compat.make_dtensor(local, asked.mesh, asked.placements, torch.Size(move.shape))


@functools.lru_cache(4096)
def _local_shape(shape: tuple[int, ...], layout: LayoutTuple, index: int) -> tuple[int, ...]:
    return tuple(_C.local_shape(shape, layout, index))


class _Moved(torch.autograd.Function):
    """Says of a tensor that has come which one it was: the gradient goes back there."""

    @staticmethod
    def forward(ctx: Any, x: DTensor, arrived: Callable[[], DTensor]) -> DTensor:
        ctx.mesh, ctx.dtype = x.device_mesh, x.dtype
        # As DTensor has it: the gradient of a partial tensor is the same on all ranks that hold a part of it.
        ctx.placements = [Replicate() if one.is_partial() else one for one in x.placements]
        return arrived()

    @staticmethod
    def backward(ctx: Any, gradient: DTensor) -> tuple[DTensor, None]:
        return redistribute(gradient, ctx.mesh, ctx.placements, dtype=ctx.dtype), None
