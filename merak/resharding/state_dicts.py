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
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import merak.backend
from merak import _C, _torch_compat
from merak.resharding import layouts
from merak.resharding.layouts import LayoutTuple
from merak.resharding.plan import DEFAULT_MAX_STAGING, Move, ReshardPlan, plan_of, start
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
        async_op: return a Work at once: until its `wait()` has returned, `src` must not be changed.
        timeout: the group's, if None.

    Raises:
        ValueError: a tensor has no source, or is not what it is elsewhere; the same error on all ranks, and nothing has
            been moved.
        torch.distributed.DistBackendError: a rank's local tensor does not fit its layout, or the timeout has passed.
        torch.distributed.DistNetworkError: a rank has died or left.
    """
    backend = merak.backend.of_group(group)
    ranks = dist.get_process_group_ranks(group) if group is not None else list(range(dist.get_world_size()))
    sources, targets = _tensors(src), _tensors(dst)
    text = json.dumps([_specs(sources), _specs(targets)])
    digests = _exchange(backend, text, timeout or NO_TIMEOUT)
    topology = Topology._of_network(backend.network(timeout or NO_TIMEOUT))
    plan = _plan(tuple(digests), _Texts(tuple(_texts(digests, text))), tuple(ranks), topology, max_staging)
    work = start(plan, backend, backend.rank(), sources, targets, timeout)
    if async_op:
        return work
    work.wait()
    return None


def _tensors(state: StateDict | None) -> dict[str, torch.Tensor]:
    """By dotted name."""
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            if name in found:
                raise ValueError(f"reshard_state_dict: two tensors are called {name!r}")
            found[name] = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                walk(inner, f"{name}.{index}")

    walk(state or {}, "")
    return found


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
) -> ReshardPlan:
    sides = [json.loads(text) for text in texts.by_rank]
    source = _Side("src", [side[0] for side in sides], ranks)
    target = _Side("dst", [side[1] for side in sides], ranks)
    faults = [*source.faults, *target.faults]
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
    return plan_of(tuple(moves), topology, max_staging)


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
        (first, spec), *others = held
        for index, other in others:
            if other != spec:
                self._fault(name, f"is not the same on rank {self._ranks[first]} and on rank {self._ranks[index]}")
                return
        shape, dtype, layout = spec
        holders = [index for index, _ in held]
        if layout is None:
            whole = ((len(holders),), tuple(holders), (("replicate", 0, 1, "none"),))
            self.tensors[name] = tuple(shape), dtype, whole
            return
        mesh_shape, mesh_ranks, placements = layout
        if outside := [rank for rank in mesh_ranks if rank not in self._index_of]:
            self._fault(name, f"is on rank {outside[0]}, which is not in the group")
            return
        members = tuple(self._index_of[rank] for rank in mesh_ranks)
        if missing := [self._ranks[index] for index in members if index not in holders]:
            self._fault(name, f"is missing on rank {missing[0]}, which is in its mesh")
            return
        kinds = tuple((kind, dim, factor, reduction) for kind, dim, factor, reduction in placements)
        self.tensors[name] = tuple(shape), dtype, (tuple(mesh_shape), members, kinds)

    def _fault(self, name: str, what: str) -> None:
        self.faults.append(f"{name!r} of {self._side} {what}")
