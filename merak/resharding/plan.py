"""Plans of resharding: made without communication, explained, saved, and carried out."""

from __future__ import annotations

import bisect
import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Placement

import merak.backend
from merak import _C, _torch_compat
from merak.resharding import explaining, layouts
from merak.resharding.layouts import LayoutTuple, PlacementLike, Ranks
from merak.resharding.topology import NO_TIMEOUT, Topology
from merak.resharding.work import ReshardWork

if TYPE_CHECKING:
    from merak._torch_compat import ProcessGroup

DTypes: TypeAlias = torch.dtype | tuple[torch.dtype, torch.dtype]
"""Of source and target; one for both."""
TensorMove: TypeAlias = tuple[Sequence[int], DTypes, Ranks, Sequence[PlacementLike], Ranks, Sequence[PlacementLike]]
"""(shape, dtype, source mesh, source placements, target mesh, target placements)."""

DEFAULT_MAX_STAGING = 64 * 1024 * 1024
"""Bytes of scratch memory that a rank uses at most, unless told otherwise."""

MOST_CACHED_PLANS = 1024

_FORMAT = "merak reshard plan"
_VERSION = 1


class Move(NamedTuple):
    """One tensor, as plans have it: hashable."""

    name: str
    shape: tuple[int, ...]
    source_dtype: torch.dtype
    target_dtype: torch.dtype
    source: LayoutTuple
    target: LayoutTuple

    @property
    def wire_dtype(self) -> torch.dtype:
        """That of the elements on their way: the smaller of both, so that a cast to fewer bytes is made by who sends;
        but values that are still to be added up keep the source's."""
        if any(kind == "partial" for kind, *_ in self.source[2]):
            return self.source_dtype
        return min(self.target_dtype, self.source_dtype, key=lambda dtype: dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Of the whole tensor, on its way."""
        return functools.reduce(int.__mul__, self.shape, 1) * self.wire_dtype.itemsize

    def for_cxx(self) -> tuple[str, tuple[int, ...], str, LayoutTuple, LayoutTuple]:
        # The name says what else all ranks have to ask for alike.
        cast = "" if self.target_dtype == self.wire_dtype else f" as {layouts.dtype_name(self.target_dtype)}"
        return self.name + cast, self.shape, layouts.dtype_name(self.wire_dtype), self.source, self.target


class ReshardPlan:
    """How the tensors of a batch get from their layouts to others: the same on all ranks.

    `str(plan)` and `explain()` say it, `picture` draws it, `save` and `load` keep it, `run` does it, as often as anyone
    likes. `plan_reshard` makes one.
    """

    def __init__(self, moves: tuple[Move, ...], planned: _C.PlannedMoves) -> None:
        self.moves = moves
        self.planned = planned

    @property
    def topology(self) -> Topology:
        """For which it was made."""
        return Topology._of_network(self.planned.network)

    @property
    def seconds(self) -> float:
        """What it takes by the model."""
        return self.planned.seconds

    @property
    def lower_bound_s(self) -> float:
        """No plan can take less, by the same model."""
        return self.planned.bound_s

    def explain(self, most_lines: int = 40) -> str:
        """Tensors, units and buckets; what enters and leaves each host, and has to; what each kind of plan would take;
        who sends what to whom, in order.

        Args:
            most_lines: of the order, which is cut short after it.
        """
        return explaining.text(self, most_lines)

    def __str__(self) -> str:
        return self.explain()

    def __repr__(self) -> str:
        return (
            f"<ReshardPlan of {len(self.moves)} tensors for {len(self.topology.host_of)} ranks, {self.seconds:.3f} s>"
        )

    def picture(self, path: str | Path) -> None:
        """Draws which link of which host is busy with what, and when, into a file: .png, .svg, .pdf."""
        from merak.resharding import picture

        picture.draw(self, Path(path))

    def staging_bytes(self, rank: int) -> int:
        """The scratch memory that a rank uses while it runs."""
        return self.planned.staging_bytes(rank)

    def save(self, path: str | Path) -> None:
        """Writes it as JSON."""
        Path(path).write_text(json.dumps(self.to_json()))

    @classmethod
    def load(cls, path: str | Path) -> ReshardPlan:
        """Reads what `save` has written. All ranks must load the same.

        Raises:
            ValueError: the file is no such plan, or its transfers do not bring every byte to where it is wanted.
        """
        try:
            facts = json.loads(Path(path).read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no plan: {error}") from error
        return cls.from_json(facts, str(path))

    def to_json(self) -> dict[str, Any]:
        """Lists, numbers and texts; equal layouts once."""
        table: dict[LayoutTuple, int] = {}
        tensors = [
            [
                move.name,
                move.shape,
                layouts.dtype_name(move.source_dtype),
                layouts.dtype_name(move.target_dtype),
                table.setdefault(move.source, len(table)),
                table.setdefault(move.target, len(table)),
            ]
            for move in self.moves
        ]
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "tensors": tensors,
            "layouts": list(table),
            "topology": self.topology.to_json(),
            "max_staging": self.planned.most_staging_bytes,
            "plans": self.planned.plans(),
        }

    @classmethod
    def from_json(cls, facts: dict[str, Any], where: str = "this") -> ReshardPlan:
        """What `to_json` has given; raises as `load` does."""
        try:
            if facts["format"] != _FORMAT or facts["version"] != _VERSION:
                raise ValueError(f"format {facts['format']!r}, version {facts['version']!r}")
            table = [_layout(layout) for layout in facts["layouts"]]
            moves = tuple(_move(fields, table) for fields in facts["tensors"])
            network = Topology.from_json(facts["topology"]).network()
            plans = [_plan(plan) for plan in facts["plans"]]
            planned = _C.PlannedMoves.from_plans(
                [move.for_cxx() for move in moves], network, facts["max_staging"], plans
            )
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise ValueError(f"{where} is no plan of merak's: {error!r}") from error
        except ValueError as error:
            raise ValueError(f"{where} is no plan that can be carried out: {error}") from error
        return cls(moves, planned)

    def run(
        self,
        src: Mapping[str, torch.Tensor] | None,
        dst: Mapping[str, torch.Tensor] | None,
        *,
        group: ProcessGroup | None = None,
        async_op: bool = False,
        timeout: datetime.timedelta | None = None,
        device: torch.device | None = None,
    ) -> ReshardWork[None] | None:
        """Moves the tensors. Called by all ranks of the group.

        Args:
            src: by name, what this rank has of the sources: DTensors, or the local tensors. Others than the plan's are
                not looked at.
            dst: the same of the targets, which are written.
            group: of merak's; rank r of it is rank r of the plan. Default: the default group.
            async_op: return a Work at once.
            timeout: the group's, if None.
            device: where the tensors are; needed on a rank that has none while others have some on GPUs.

        Raises:
            ValueError: the group is of another size than the plan.
            torch.distributed.DistBackendError: a rank's tensors do not fit the plan, or ranks have different plans (on
                all ranks, and nothing has been moved); or the timeout has passed.
            torch.distributed.DistNetworkError: a rank has died or left.
        """
        backend = merak.backend.of_group(group)
        ranks = ranks_of(group)
        work = start(self, backend, ranks, src or {}, dst or {}, timeout, device)
        if async_op:
            return work
        work.wait()
        return None


def start(
    plan: ReshardPlan,
    backend: _C.Backend,
    ranks: Sequence[int],
    src: Mapping[str, torch.Tensor],
    dst: Mapping[str, torch.Tensor],
    timeout: datetime.timedelta | None,
    device: torch.device | None = None,
) -> ReshardWork[None]:
    """`plan.run` on a group of merak's, whose global ranks are `ranks`; of tensors on that device: by default that of
    those that this rank has."""
    sides = _Sides(backend.rank(), ranks, device)
    try:
        sources = [sides.source(move, src.get(move.name)) for move in plan.moves]
        targets = [sides.target(move, dst.get(move.name)) for move in plan.moves]
    except Exception as error:  # whatever it is: the others must not wait for this rank
        sides.problem = str(error) or type(error).__name__
        sources = targets = [None] * len(plan.moves)
    started = backend.reshard(plan.planned, sources, targets, sides.device, sides.problem, 0, timeout or NO_TIMEOUT)
    return ReshardWork(started.work, sides.finish, started.agreed)


class _Sides:
    """This rank's tensors on their way in and out of a plan: casts, and what does not fit."""

    def __init__(self, rank: int, ranks: Sequence[int], device: torch.device | None) -> None:
        self.problem = ""
        self.device = device or torch.device("cpu")
        self._rank = rank
        self._index_of = {global_rank: index for index, global_rank in enumerate(ranks)}
        self._written: list[tuple[int, int]] = []  # begin and end in memory, rising
        self._casts: list[tuple[torch.Tensor, torch.Tensor]] = []  # (to, from), when everything has come

    def source(self, move: Move, tensor: torch.Tensor | None) -> torch.Tensor | None:
        local = self._local(move, tensor, move.source, move.source_dtype, "source")
        return None if local is None else local.to(move.wire_dtype)

    def target(self, move: Move, tensor: torch.Tensor | None) -> torch.Tensor | None:
        local = self._local(move, tensor, move.target, move.target_dtype, "target")
        if local is None:
            return None
        if any(stride == 0 and size > 1 for stride, size in zip(local.stride(), local.shape, strict=True)):
            raise ValueError(f"its target of {move.name!r} has elements that share memory, as expand() makes them")
        as_it_comes = local.dtype == move.wire_dtype and not (local.is_conj() or local.is_neg())
        if as_it_comes and local.is_contiguous() and self._is_apart(local):
            return local
        arriving = torch.empty(local.shape, dtype=move.wire_dtype, device=local.device)
        self._casts.append((local, arriving))
        return arriving

    def _is_apart(self, local: torch.Tensor) -> bool:
        """Whether no other target has memory of this one, as tied weights have: ranks pass on what has come."""
        if local.numel() == 0:
            return True
        begin, end = local.data_ptr(), local.data_ptr() + local.nbytes
        at = bisect.bisect_left(self._written, (begin, end))
        before, after = self._written[at - 1 : at], self._written[at : at + 1]
        if (at > 0 and before[0][1] > begin) or (after and after[0][0] < end):
            return False
        self._written.insert(at, (begin, end))
        return True

    def finish(self) -> None:
        with torch.no_grad():
            for to, arrived in self._casts:
                to.copy_(arrived)
        self._casts.clear()

    def _local(
        self, move: Move, tensor: torch.Tensor | None, layout: LayoutTuple, dtype: torch.dtype, side: str
    ) -> torch.Tensor | None:
        if tensor is None or self._rank not in layout[1]:
            return None
        if isinstance(tensor, DTensor):
            self._check_dtensor(move, tensor, layout, side)
            tensor = _torch_compat.local_of(tensor)
        if tensor.dtype != dtype:
            raise ValueError(f"its {side} of {move.name!r} is of {tensor.dtype}, and {dtype} was planned")
        if tensor.device.type != "cpu":
            self.device = tensor.device
        return tensor.detach()

    def _check_dtensor(self, move: Move, tensor: DTensor, layout: LayoutTuple, side: str) -> None:
        if tuple(tensor.shape) != move.shape:
            raise ValueError(
                f"its {side} of {move.name!r} has shape {tuple(tensor.shape)}, and {move.shape} was planned"
            )
        found = layouts.layout_of_dtensor(tensor, lambda rank: self._index_of.get(rank, -1))
        if found != layout:
            raise ValueError(
                f"its {side} of {move.name!r} is {layouts.text_of(found)}, and {layouts.text_of(layout)} was planned"
            )


def plan_reshard(
    tensors: Mapping[str, TensorMove],
    topology: Topology | None = None,
    *,
    max_staging: int = DEFAULT_MAX_STAGING,
    group: ProcessGroup | None = None,
) -> ReshardPlan:
    """Plans how all these tensors get to their new layouts, in one problem. Nothing is sent; but without a `topology`
    the first call in a group waits until all ranks have made it, for who shares a host.

    Args:
        tensors: by name, (shape, dtype, source mesh, source placements, target mesh, target placements). A mesh is a
            DeviceMesh, or the ranks in nested lists; placements are DTensor's, or their text ("S(0)"). Where dtype is a
            pair, the target's may be another: values are cast where that saves bytes, and after they were added up.
        topology: of the group. Default: that of `group`, or of the default group; without one, every rank has a host of
            its own.
        max_staging: bytes of scratch memory for each rank; all ranks must state the same.
        group: whose ranks the plan is for, when it is not the default group: ranks in meshes are global ones, and are
            translated.

    Returns:
        The same plan for the same arguments, on all ranks; from a cache if it was made before.

    Raises:
        ValueError: a tensor cannot be moved so; the text names it, and says why.
    """
    index_of: Callable[[int], int] = int
    if group is not None:
        numbers = {rank: index for index, rank in enumerate(ranks_of(group))}
        index_of = functools.partial(_index_in, numbers)
    layout_of = _remembering(index_of)
    moves = tuple(_planned_move(name, fields, layout_of) for name, fields in tensors.items())
    if topology is None:
        topology = _topology_here(group, moves)
    return plan_of(moves, topology, max_staging)


@functools.lru_cache(MOST_CACHED_PLANS)
def plan_of(moves: tuple[Move, ...], topology: Topology, max_staging: int) -> ReshardPlan:
    """The plan of these moves; the same object when it is asked for again.

    Raises:
        ValueError: as of `plan_reshard`.
    """
    if max_staging < 0:
        raise ValueError(f"max_staging is {max_staging}; it is a number of bytes")
    return ReshardPlan(moves, _C.PlannedMoves([move.for_cxx() for move in moves], topology.network(), max_staging))


def ranks_of(group: ProcessGroup | None) -> list[int]:
    """Global ones."""
    return list(range(dist.get_world_size())) if group is None else dist.get_process_group_ranks(group)


LayoutOf: TypeAlias = Callable[[Ranks, Sequence[PlacementLike], int], LayoutTuple]


def _remembering(index_of: Callable[[int], int]) -> LayoutOf:
    """`layouts.layout_of`, which works a layout out once where thousands of tensors have the same mesh object."""
    known: dict[tuple[int, tuple[PlacementLike, ...], int], LayoutTuple] = {}

    def layout_of(mesh: Ranks, placements: Sequence[PlacementLike], dims: int) -> LayoutTuple:
        if isinstance(placements, Placement | str):
            placements = (placements,)
        key = (id(mesh), tuple(placements), dims)  # the caller's dictionary keeps the mesh alive
        found = known.get(key)
        if found is None:
            found = known[key] = layouts.layout_of(mesh, placements, dims, index_of)
        return found

    return layout_of


def _planned_move(name: str, fields: TensorMove, layout_of: LayoutOf) -> Move:
    try:
        shape, dtypes, source_mesh, source_placements, target_mesh, target_placements = fields
        source_dtype, target_dtype = dtypes if isinstance(dtypes, tuple) else (dtypes, dtypes)
        sizes = tuple(int(size) for size in shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name!r}: expected (shape, dtype, source mesh, source placements, target mesh, target placements), not "
            f"{fields!r}"
        ) from error
    if any(size < 0 for size in sizes):
        raise ValueError(f"{name!r}: a shape of {sizes}")
    if not (isinstance(source_dtype, torch.dtype) and isinstance(target_dtype, torch.dtype)):
        raise ValueError(f"{name!r}: {dtypes!r} is no dtype, nor a pair of them")
    try:
        source = layout_of(source_mesh, source_placements, len(sizes))
        target = layout_of(target_mesh, target_placements, len(sizes))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r}: {error}") from error
    return Move(name, sizes, source_dtype, target_dtype, source, target)


def _index_in(numbers: Mapping[int, int], rank: int) -> int:
    if rank not in numbers:
        raise ValueError(f"rank {rank} is not in the group")
    return numbers[rank]


def _topology_here(group: ProcessGroup | None, moves: Sequence[Move]) -> Topology:
    if dist.is_initialized():
        return Topology.of_group(group)
    ranks = [rank for move in moves for layout in (move.source, move.target) for rank in layout[1]]
    return Topology.usual(range(max(ranks, default=0) + 1))


def _layout(facts: Any) -> LayoutTuple:
    shape, ranks, placements = facts
    kinds = tuple((str(kind), int(dim), int(factor), str(reduction)) for kind, dim, factor, reduction in placements)
    return tuple(map(int, shape)), tuple(map(int, ranks)), kinds


def _move(facts: Any, table: Sequence[LayoutTuple]) -> Move:
    name, shape, source_dtype, target_dtype, source, target = facts
    dtypes = layouts.dtype_named(source_dtype), layouts.dtype_named(target_dtype)
    return Move(str(name), tuple(map(int, shape)), *dtypes, table[source], table[target])


def _plan(facts: Any) -> Any:
    transfers, chosen, candidates, bound_s = facts
    for transfer in transfers:
        transfer[5] = [tuple(hop) for hop in transfer[5]]
    return [tuple(transfer) for transfer in transfers], tuple(chosen), [tuple(one) for one in candidates], bound_s
