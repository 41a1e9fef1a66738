"""The ways in which a tensor gets from one layout to another: merak's, and what others do, written over
torch.distributed's own calls.

Peers, all of a single tensor, over the group's backend:

* ``point to point``: of each part that a source tile and a target tile have in common, the first rank that holds it
  sends it to every rank that wants it, everything at once.
* ``broadcast, then slice``: every source tile is broadcast to all ranks of the target, which keep what they want.
* ``broadcast per part``: each such part is broadcast from its first holder to those who want it, one after the other.
* ``striped, all-gather``: a target tile is cut into as many stripes as ranks want it; each of them gets one, from the
  replicas of the source in turn, and they gather the rest among each other (Megatron's scatter-gather, Alpa's local
  all-gather, NeMo-RL's striping).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

import merak
import merak.resharding

from .cases import Case, Side, Tensor

Box = tuple[tuple[int, int], ...]
"""By dimension: begin and end."""

Locals = dict[str, torch.Tensor]
"""By name: what this rank has."""


class Way(Protocol):
    """One way to move a case, on one rank: prepared once, called many times."""

    def call(self) -> None:
        """Do it once, to completion."""


# Boxes, as DTensor cuts ----------------------------------------------------------------------------------------------


def box_of(shape: Sequence[int], side: Side, place: Sequence[int]) -> Box:
    """What the rank at that place of the mesh has; of placements that are no strided ones."""
    box = [(0, extent) for extent in shape]
    for size, coordinate, placement in zip(side.ranks.shape, place, side.placements, strict=True):
        if placement.is_shard():
            dim = placement.dim  # type: ignore[attr-defined]
            begin, end = box[dim]
            step = -(-(end - begin) // size)
            box[dim] = min(begin + step * coordinate, end), min(begin + step * (coordinate + 1), end)
    return tuple(box)


def tiles_of(shape: Sequence[int], side: Side) -> dict[Box, list[int]]:
    """By box: the ranks that have it."""
    tiles: dict[Box, list[int]] = {}
    for place in itertools.product(*map(range, side.ranks.shape)):
        tiles.setdefault(box_of(shape, side, place), []).append(int(side.ranks[place]))
    return tiles


def common(a: Box, b: Box) -> Box | None:
    both = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return both if all(begin < end for begin, end in both) else None


def inside(box: Box, within: Box) -> tuple[slice, ...]:
    return tuple(slice(b[0] - w[0], b[1] - w[0]) for b, w in zip(box, within, strict=True))


class Part(NamedTuple):
    """What a source tile and a target tile have in common."""

    box: Box
    source: Box
    holders: list[int]
    target: Box
    receivers: list[int]

    @property
    def shape(self) -> list[int]:
        return [end - begin for begin, end in self.box]


def parts_of(tensor: Tensor) -> list[Part]:
    """Target tile by target tile."""
    parts = []
    for target, receivers in tiles_of(tensor.shape, tensor.target).items():
        for source, holders in tiles_of(tensor.shape, tensor.source).items():
            box = common(source, target)
            if box is not None:
                parts.append(Part(box, source, holders, target, receivers))
    return parts


@functools.cache
def group_over(backend: str, ranks: tuple[int, ...]) -> dist.ProcessGroup:
    """Made by all ranks together; kept."""
    group = dist.new_group(list(ranks), backend=backend)
    return group  # type: ignore[return-value]


# Peers ---------------------------------------------------------------------------------------------------------------


class Peer:
    """What peers have in common: the one tensor of a case."""

    def __init__(self, backend: str, case: Case, src: Locals, dst: Locals) -> None:
        (name,) = case
        self.tensor, self.backend, self.rank = case[name], backend, dist.get_rank()
        self.src, self.dst = src.get(name), dst.get(name)
        self.group = group_over(backend, tuple(range(dist.get_world_size())))
        self.parts = parts_of(self.tensor)

    def own(self, part: Part) -> torch.Tensor:
        assert self.src is not None
        return self.src[inside(part.box, part.source)]

    def put(self, part: Part, values: torch.Tensor) -> None:
        assert self.dst is not None
        self.dst[inside(part.box, part.target)] = values

    def empty(self, part: Part) -> torch.Tensor:
        return torch.empty(part.shape, dtype=self.tensor.dtype)

    def exchange(self, messages: Sequence[tuple[Part, int, list[int]]]) -> None:
        """Parts, each from its sender to its receivers, all at once."""
        works, arrived = [], []
        for tag, (part, sender, receivers) in enumerate(messages):
            if self.rank == sender:
                own = self.own(part).contiguous()
                works += [dist.isend(own, to, group=self.group, tag=tag) for to in receivers]
            if self.rank in receivers:
                arrived.append((part, self.empty(part)))
                works.append(dist.irecv(arrived[-1][1], sender, group=self.group, tag=tag))
        for work in works:
            assert work is not None
            work.wait()
        for part, values in arrived:
            self.put(part, values)


class PointToPoint(Peer):
    def call(self) -> None:
        self.exchange([(part, part.holders[0], part.receivers) for part in self.parts])


class BroadcastThenSlice(Peer):
    def __init__(self, backend: str, case: Case, src: Locals, dst: Locals) -> None:
        super().__init__(backend, case, src, dst)
        self.tiles = [
            (box, holders[0], group_over(backend, tuple(sorted({holders[0], *self.tensor.target.members}))))
            for box, holders in tiles_of(self.tensor.shape, self.tensor.source).items()
        ]

    def call(self) -> None:
        for box, sender, group in self.tiles:
            if self.rank != sender and self.rank not in self.tensor.target.members:
                continue
            tile = self.src if self.rank == sender else torch.empty([b - a for a, b in box], dtype=self.tensor.dtype)
            dist.broadcast(tile, sender, group=group)
            if self.dst is not None:
                for part in self.parts:
                    if part.source == box and self.rank in part.receivers:
                        self.put(part, tile[inside(part.box, box)])


class BroadcastPerPart(Peer):
    def __init__(self, backend: str, case: Case, src: Locals, dst: Locals) -> None:
        super().__init__(backend, case, src, dst)
        self.groups = [group_over(backend, tuple(sorted({p.holders[0], *p.receivers}))) for p in self.parts]

    def call(self) -> None:
        for part, group in zip(self.parts, self.groups, strict=True):
            sender = part.holders[0]
            if self.rank == sender:
                dist.broadcast(self.own(part).contiguous(), sender, group=group)
            elif self.rank in part.receivers:
                values = self.empty(part)
                dist.broadcast(values, sender, group=group)
                self.put(part, values)


class StripedAllGather(Peer):
    """Stripes along dimension 0 of a target tile, or of what there is to cut."""

    def __init__(self, backend: str, case: Case, src: Locals, dst: Locals) -> None:
        super().__init__(backend, case, src, dst)
        self.stripes: list[tuple[Part, int, int]] = []  # (what of it, sender, receiver)
        turns: dict[Box, int] = {}
        for tile, receivers in tiles_of(self.tensor.shape, self.tensor.target).items():
            begin, end = tile[0]
            step = -(-(end - begin) // len(receivers))
            for index, receiver in enumerate(receivers):
                stripe = ((min(begin + index * step, end), min(begin + (index + 1) * step, end)), *tile[1:])
                for source, holders in tiles_of(self.tensor.shape, self.tensor.source).items():
                    box = common(source, stripe)
                    if box is not None:
                        turn = turns[source] = turns.get(source, -1) + 1
                        part = Part(box, source, holders, tile, receivers)
                        self.stripes.append((part, holders[turn % len(holders)], receiver))
        self.groups = {
            tile: group_over(backend, tuple(sorted(receivers)))
            for tile, receivers in tiles_of(self.tensor.shape, self.tensor.target).items()
            if len(receivers) > 1
        }

    def call(self) -> None:
        self.exchange([(part, sender, [receiver]) for part, sender, receiver in self.stripes])
        for tile, receivers in tiles_of(self.tensor.shape, self.tensor.target).items():
            if self.rank in receivers and len(receivers) > 1:
                assert self.dst is not None
                gather_stripes(self.dst, receivers.index(self.rank), len(receivers), self.groups[tile])


def gather_stripes(tile: torch.Tensor, index: int, count: int, group: dist.ProcessGroup) -> None:
    """From each of `count` ranks its chunk of the tile; all_gather wants equal ones, so that the last may be padded."""
    stripes = list(tile.chunk(count))
    if all(stripe.shape == stripes[0].shape for stripe in stripes) and len(stripes) == count:
        dist.all_gather(stripes, stripes[index].clone(), group=group)
        return
    padded = [torch.empty_like(stripes[0]) for _ in range(count)]
    mine = torch.zeros_like(stripes[0])
    if index < len(stripes):
        mine[: len(stripes[index])] = stripes[index]
    dist.all_gather(padded, mine, group=group)
    for stripe, values in zip(stripes, padded, strict=False):
        stripe.copy_(values[: len(stripe)])


PEERS: dict[str, Callable[[str, Case, Locals, Locals], Way]] = {
    "point to point": PointToPoint,
    "broadcast, then slice": BroadcastThenSlice,
    "broadcast per part": BroadcastPerPart,
    "striped, all-gather": StripedAllGather,
}


# merak ---------------------------------------------------------------------------------------------------------------


def plan_of(
    case: Case, names: Sequence[str] | None = None, topology: merak.resharding.Topology | None = None
) -> merak.resharding.ReshardPlan:
    """Of these tensors, or of all; for the group as it is, or another topology."""
    return merak.plan_reshard(
        {
            name: (t.shape, t.dtype, t.source.ranks, t.source.placements, t.target.ranks, t.target.placements)
            for name, t in case.items()
            if names is None or name in names
        },
        topology or merak.resharding.Topology.of_group(group_over("merak", tuple(range(dist.get_world_size())))),
    )


class Merak:
    """merak.plan_reshard(...).run(...), all tensors together."""

    def __init__(self, case: Case, src: Locals, dst: Locals) -> None:
        self.src, self.dst, self.plan = src, dst, plan_of(case)
        self.group = group_over("merak", tuple(range(dist.get_world_size())))

    def call(self) -> None:
        self.plan.run(self.src, self.dst, group=self.group)


class MerakOneByOne(Merak):
    """A plan for each tensor; each is waited for."""

    def __init__(self, case: Case, src: Locals, dst: Locals) -> None:
        super().__init__(case, src, dst)
        self.plans = [plan_of(case, [name]) for name in case]

    def call(self) -> None:
        for plan in self.plans:
            plan.run(self.src, self.dst, group=self.group)


def make(way: str, case: Case, src: Locals, dst: Locals) -> Way:
    """A way by its name: "merak", "merak, one by one", or a peer with its backend, "striped, all-gather (gloo)"."""
    if way == "merak":
        return Merak(case, src, dst)
    if way == "merak, one by one":
        return MerakOneByOne(case, src, dst)
    name, _, backend = way.rstrip(")").partition(" (")
    return PEERS[name](backend, case, src, dst)


def ways_of(case: Case) -> list[str]:
    """Those that can move it."""
    if len(case) > 1:
        return ["merak", "merak, one by one"]
    return ["merak", *(f"{name} ({backend})" for name in PEERS for backend in ("gloo", "merak"))]
