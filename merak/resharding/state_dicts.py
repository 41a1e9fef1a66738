"""`merak.reshard_state_dict`: two sides that each know only their own layouts.

1. Every rank writes down what it has: of each tensor name, shape, dtype, mesh and placements, as JSON. A tensor that is
   no DTensor is held whole by the ranks that have it.
2. The ranks exchange hashes of these texts in an all-gather; a text that somebody else has too is in the store once,
   under its hash, and whoever does not know it reads it there.
3. From all texts every rank makes the same moves, and the same plan, which is carried out.

When nothing has changed since the last call, step 2 is all there is before rows travel.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch.distributed.tensor import DTensor

import merak.backend
from merak import _C, _torch_compat
from merak.resharding import layouts
from merak.resharding.layouts import LayoutTuple
from merak.resharding.plan import DEFAULT_MAX_STAGING, Move, ReshardPlan, plan_of, ranks_of, start
from merak.resharding.topology import NO_TIMEOUT, Topology
from merak.resharding.work import ReshardWork

if TYPE_CHECKING:
    from merak._torch_compat import ProcessGroup

StateDict = Mapping[str, Any]
"""Tensors by name, in dicts by name and lists if need be; values of other types stay where they are."""

_HASH_BYTES = 32
_MOST_FAULTS = 5  # named in an error


@overload
def reshard_state_dict(
    src: StateDict | None,
    dst: StateDict | None,
    group: ProcessGroup | None = ...,
    *,
    max_staging: int = ...,
    async_op: Literal[False] = ...,
    timeout: datetime.timedelta | None = ...,
) -> None: ...
@overload
def reshard_state_dict(
    src: StateDict | None,
    dst: StateDict | None,
    group: ProcessGroup | None = ...,
    *,
    max_staging: int = ...,
    async_op: Literal[True],
    timeout: datetime.timedelta | None = ...,
) -> ReshardWork[None]: ...
def reshard_state_dict(
    src: StateDict | None,
    dst: StateDict | None,
    group: ProcessGroup | None = None,
    *,
    max_staging: int = DEFAULT_MAX_STAGING,
    async_op: bool = False,
    timeout: datetime.timedelta | None = None,
) -> ReshardWork[None] | None:
    """Fills the tensors of `dst`, in place, with those of the same names in `src`, wherever and however either is laid
    out: all of them in one plan. Called by all ranks of the group.

    Each rank passes what it has: a trainer its state dict and None, a generator None and its own; a rank of both, both;
    a rank of neither, None twice. Meshes may be any: they need not know of each other.

    Args:
        src: DTensors, or tensors that each rank has whole which has them (the same values on all of these).
        dst: likewise; written. Values are cast to its dtypes. Each of its tensors has to be in somebody's `src`; what
            is in `src` alone stays there.
        group: of merak's, with the ranks of both sides; default: the default group. Ranks in meshes are global ones.
        max_staging: bytes of scratch memory of a rank, the same on all.
        async_op: return a Work when all ranks have called it, and before anything has been moved: until its `wait()`
            has returned, `src` must not be changed.
        timeout: the group's, if None.

    Raises:
        ValueError: a tensor has no source, or is not what it is elsewhere; the same error on all ranks, and nothing has
            been moved.
        torch.distributed.DistBackendError: a rank's local tensor does not fit its layout, or the timeout has passed.
        torch.distributed.DistNetworkError: a rank has died or left.
    """
    backend = merak.backend.of_group(group)
    sources, targets, text = _described(src, dst)
    digests = _exchange(backend, text, timeout or NO_TIMEOUT)
    topology = Topology._of_network(backend.network(timeout or NO_TIMEOUT))
    ranks = ranks_of(group)
    texts = _Texts(tuple(_texts(digests, text)))
    plan, device_type = _plan(tuple(digests), texts, tuple(ranks), topology, max_staging)
    work = start(plan, backend, ranks, _local(sources), _local(targets), timeout, layouts.device_of(device_type))
    if async_op:
        return work
    work.wait()
    return None


def _described(
    src: StateDict | None, dst: StateDict | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    """The tensors of both sides by name; and what the others have to know of them. Faults are known to all, too."""
    try:
        sources, targets = layouts.tensors_by_name(src or {}), layouts.tensors_by_name(dst or {})
        devices = sorted({tensor.device.type for tensor in (*sources.values(), *targets.values())})
        return sources, targets, json.dumps([_specs(sources), _specs(targets), devices, ""])
    except (ValueError, TypeError, AttributeError) as error:
        return {}, {}, json.dumps([[], [], [], str(error)])


def _local(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What this rank has of them: their layouts are what the plan was made from."""
    return {
        name: _torch_compat.local_of(tensor) if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def _specs(tensors: Mapping[str, torch.Tensor]) -> list[Any]:
    """(name, shape, dtype, layout or None), sorted by name."""
    specs = []
    for name, tensor in sorted(tensors.items()):
        layout = layouts.layout_of_dtensor(tensor) if isinstance(tensor, DTensor) else None
        specs.append((name, tuple(tensor.shape), layouts.dtype_name(tensor.dtype), layout))
    return specs


# The exchange --------------------------------------------------------------------------------------------------------


def _exchange(backend: _C.Backend, text: str, timeout: datetime.timedelta) -> list[bytes]:
    """By rank: the hash of what it has."""
    own = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
    everyones = torch.empty(backend.size() * _HASH_BYTES, dtype=torch.uint8)
    digest = own.numpy().tobytes()
    store = _torch_compat.default_store()
    if not store.check([_key(digest)]):
        store.set(_key(digest), text)  # before anybody hears of it
    _torch_compat.all_gather(backend, everyones, own, timeout).wait()
    flat = everyones.numpy().tobytes()
    return [flat[at : at + _HASH_BYTES] for at in range(0, len(flat), _HASH_BYTES)]


def _key(digest: bytes) -> str:
    return f"merak/reshard/{digest.hex()}"


def _texts(digests: Sequence[bytes], own: str) -> list[str]:
    """By rank: what it has."""
    known = {hashlib.sha256(own.encode()).digest(): own}
    for digest in digests:
        if digest not in known:
            known[digest] = _read(digest)
    return [known[digest] for digest in digests]


@functools.lru_cache(64)
def _read(digest: bytes) -> str:
    text = _torch_compat.default_store().get(_key(digest))
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("reshard_state_dict: the store holds another text than the one that was announced")
    return text.decode()


@dataclasses.dataclass(frozen=True)
class _Texts:
    """What follows from the digests, so that it is no part of a key."""

    by_rank: tuple[str, ...] = dataclasses.field(compare=False)


# The moves -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(64)
def _plan(
    digests: tuple[bytes, ...], texts: _Texts, ranks: tuple[int, ...], topology: Topology, max_staging: int
) -> tuple[ReshardPlan, str]:
    """And the type of device that the tensors are on."""
    sides = [json.loads(text) for text in texts.by_rank]
    source = _Side("src", [side[0] for side in sides], ranks)
    target = _Side("dst", [side[1] for side in sides], ranks)
    own = [f"on rank {rank}: {side[3]}" for rank, side in zip(ranks, sides, strict=True) if side[3]]
    faults = [*own, *source.faults, *target.faults]
    devices = sorted({device for side in sides for device in side[2]})
    if len(devices) > 1:
        faults.append(f"tensors are on {' and '.join(devices)}: move each kind by itself")
    moves = []
    for name, (shape, dtype, layout) in target.tensors.items():
        found = source.tensors.get(name)
        if found is None:
            faults.append(f"{name!r} is in no rank's src")
        elif found[0] != shape:
            faults.append(f"{name!r} has shape {found[0]} in src and {shape} in dst")
        else:
            dtypes = layouts.dtype_named(found[1]), layouts.dtype_named(dtype)
            moves.append(Move(name, shape, *dtypes, found[2], layout))
    if faults:
        more = f", and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise ValueError(f"reshard_state_dict: {'; '.join(faults[:_MOST_FAULTS])}{more}. Nothing has been moved")
    return plan_of(tuple(moves), topology, max_staging), devices[0] if devices else "cpu"


def _cut(layout: Any) -> Any:
    """How a tensor is cut, whoever has the parts."""
    return layout and [layout[0], layout[2]]


class _Side:
    """All ranks' tensors of one side, put together.

    Attributes:
        tensors: by name, (shape, dtype, layout of indices in the group).
        faults: what is wrong with them.
    """

    def __init__(self, side: str, specs: Sequence[Sequence[Any]], ranks: tuple[int, ...]) -> None:
        self.tensors: dict[str, tuple[tuple[int, ...], str, LayoutTuple]] = {}
        self.faults: list[str] = []
        self._side, self._ranks = side, ranks
        self._index_of = {rank: index for index, rank in enumerate(ranks)}
        by_name: dict[str, list[tuple[int, Any]]] = {}
        for index, of_rank in enumerate(specs):
            for name, *spec in of_rank:
                by_name.setdefault(name, []).append((index, spec))
        for name in sorted(by_name):
            self._add(name, by_name[name])

    def _add(self, name: str, held: list[tuple[int, Any]]) -> None:
        (first, (shape, dtype, layout)), *_ = held
        holders = [index for index, _ in held]
        for index, (other_shape, other_dtype, other) in held:
            if [shape, dtype, _cut(layout)] != [other_shape, other_dtype, _cut(other)]:
                self._fault(name, f"is not the same on rank {self._ranks[first]} and on rank {self._ranks[index]}")
                return
        if layout is None:
            whole = ((len(holders),), tuple(holders), (layouts.REPLICATE,))
            self.tensors[name] = tuple(shape), dtype, whole
            return
        meshes = self._meshes(name, [(index, spec[2][1]) for index, spec in held])
        if not meshes:
            return
        mesh_shape = tuple(layout[0])
        kinds = tuple((kind, dim, factor, reduction) for kind, dim, factor, reduction in layout[2])
        members = tuple(index for mesh in meshes for index in mesh)
        if len(meshes) > 1:  # as FSDP makes them, beside tensor parallelism, of what that leaves whole
            mesh_shape, kinds = (len(meshes), *mesh_shape), (layouts.REPLICATE, *kinds)
        self.tensors[name] = tuple(shape), dtype, (mesh_shape, members, kinds)

    def _meshes(self, name: str, held: list[tuple[int, list[int]]]) -> list[tuple[int, ...]]:
        """The meshes that ranks say they have a tensor on, of indices; none if they do not go together. Several must
        have no rank in common: each has all of it."""
        meshes: dict[tuple[int, ...], set[int]] = {}
        for index, said_mesh in held:
            if outside := [rank for rank in said_mesh if rank not in self._index_of]:
                self._fault(name, f"is on rank {outside[0]}, which is not in the group")
                return []
            meshes.setdefault(tuple(self._index_of[rank] for rank in said_mesh), set()).add(index)
        # A rank outside a mesh has a DTensor of it as well, without a part.
        found = {mesh: said for mesh, said in meshes.items() if said & set(mesh)}
        members = [index for mesh in found for index in mesh]
        if len(set(members)) < len(members):
            twice = next(index for index in members if members.count(index) > 1)
            self._fault(name, f"is on several meshes, which have rank {self._ranks[twice]} in common")
            return []
        for mesh, said in found.items():
            if missing := [self._ranks[index] for index in mesh if index not in said]:
                self._fault(name, f"is missing on rank {missing[0]}, which is in its mesh")
                return []
        return sorted(found)

    def _fault(self, name: str, what: str) -> None:
        self.faults.append(f"{name!r} of {self._side} {what}")
