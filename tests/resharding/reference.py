"""What DTensor's placements mean, element by element and the slow way; and random moves of tensors."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from merak import _torch_compat

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int32, torch.int8, torch.complex64, torch.bool)
REDUCIBLE = (torch.float32, torch.float64, torch.int32)
REDUCTIONS = ("sum", "avg", "min", "max", "product")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh of ranks, and a placement for each of its dimensions."""

    mesh: torch.Tensor
    placements: tuple[Placement, ...]

    def device_mesh(self) -> DeviceMesh:
        return DeviceMesh("cpu", self.mesh, _init_backend=False)

    def place(self, rank: int) -> tuple[int, ...] | None:
        places = (self.mesh == rank).nonzero().tolist()
        return tuple(places[0]) if places else None

    @property
    def partial(self) -> Partial | None:
        """One of its partial placements; "avg" goes before "sum"."""
        found = [placement for placement in self.placements if isinstance(placement, Partial)]
        return next((one for one in found if one.reduce_op == "avg"), found[0] if found else None)


def chunks(indices: list[int], count: int) -> list[list[int]]:
    """torch.chunk's; empty ones where that gives fewer."""
    most = max(1, math.ceil(len(indices) / count))
    found = [indices[at : at + most] for at in range(0, len(indices), most)]
    return found + [[]] * (count - len(found))


def held(shape: tuple[int, ...], layout: Layout, place: tuple[int, ...]) -> list[list[int]]:
    """By dimension of the tensor: the indices that the rank at a place of the mesh has."""
    mine = [list(range(extent)) for extent in shape]
    for size, coordinate, placement in zip(layout.mesh.shape, place, layout.placements, strict=True):
        if isinstance(placement, Shard | _StridedShard):
            pieces = chunks(mine[placement.dim], getattr(placement, "split_factor", 1))
            mine[placement.dim] = [index for piece in pieces for index in chunks(piece, size)[coordinate]]
    return mine


def local(whole: torch.Tensor, layout: Layout, rank: int) -> torch.Tensor:
    """What a rank has of a tensor; of shape (0,) outside the mesh, as DTensor has it."""
    place = layout.place(rank)
    if place is None:
        return whole.new_empty(0)
    for dim, indices in enumerate(held(tuple(whole.shape), layout, place)):
        whole = whole.index_select(dim, torch.tensor(indices, dtype=torch.int64))
    return whole.clone()


def contributor(layout: Layout, place: tuple[int, ...]) -> int:
    """Which of the values that are still to be reduced a place of the mesh has."""
    number = 0
    for size, coordinate, placement in zip(layout.mesh.shape, place, layout.placements, strict=True):
        if isinstance(placement, Partial):
            number = number * size + coordinate
    return number


def contributors(layout: Layout) -> int:
    return math.prod(
        size for size, one in zip(layout.mesh.shape, layout.placements, strict=True) if isinstance(one, Partial)
    )


def reduced(parts: list[torch.Tensor], layout: Layout) -> torch.Tensor:
    """The value that these parts stand for."""
    if layout.partial is None:
        return parts[0]
    kind, total = layout.partial.reduce_op, parts[0].clone()
    for part in parts[1:]:
        total = {"min": torch.minimum, "max": torch.maximum, "product": torch.mul}.get(kind, torch.add)(total, part)
    divisor = math.prod(
        size
        for size, one in zip(layout.mesh.shape, layout.placements, strict=True)
        if isinstance(one, Partial) and one.reduce_op == "avg"
    )
    return total / divisor if divisor > 1 else total


def source(parts: list[torch.Tensor], layout: Layout, rank: int) -> DTensor:
    """The DTensor that a rank has of a tensor with these parts."""
    place = layout.place(rank)
    part = parts[0] if place is None else parts[contributor(layout, place)]
    mine = local(part, layout, rank)
    return _torch_compat.make_dtensor(mine, layout.device_mesh(), layout.placements, part.shape)


def target(value: torch.Tensor, layout: Layout, rank: int) -> torch.Tensor:
    """What a rank has to have of a value: zeros where others hold it for a sum."""
    place = layout.place(rank)
    mine = local(value, layout, rank)
    for coordinate, placement in zip(place or (), layout.placements, strict=False):
        if isinstance(placement, Partial) and placement.reduce_op == "sum" and coordinate > 0:
            mine.zero_()
    return mine


@dataclasses.dataclass(frozen=True)
class Case:
    """A tensor, by its parts, on its way."""

    parts: list[torch.Tensor]
    source: Layout
    target: Layout
    dtype: torch.dtype | None

    def expected(self, rank: int) -> torch.Tensor:
        value = reduced(self.parts, self.source)
        return target(value.to(self.dtype or value.dtype), self.target, rank)


class RandomCases:
    """The same on all ranks for the same seed."""

    def __init__(self, seed: int, ranks: int) -> None:
        self.random, self.ranks = random.Random(seed), ranks

    def draw(self) -> Case:
        dims = self.random.randint(0, 5)
        most = 9 if dims < 4 else 4
        shape = tuple(0 if self.random.random() < 0.04 else self.random.randint(1, most) for _ in range(dims))
        kind = self.random.choice(REDUCTIONS)
        origin = self.layout(dims, kind, is_source=True)
        same = self.random.random() < 0.1 and origin.partial is None
        goal = origin if same else self.layout(dims, kind, is_source=False)
        if origin.partial is not None and goal.partial is not None:
            goal = Layout(goal.mesh, tuple(Replicate() if isinstance(p, Partial) else p for p in goal.placements))
        dtype = self.random.choice(DTYPES)
        if origin.partial is not None or goal.partial is not None:
            dtype = torch.float64 if kind == "avg" else self.random.choice(REDUCIBLE)
        cast = self.random.choice((None, None, torch.float32, torch.bfloat16, torch.float64))
        parts = [self.values(shape, dtype, number) for number in range(contributors(origin))]
        return Case(parts, origin, goal, None if dtype.is_complex or dtype == torch.bool else cast)

    def layout(self, dims: int, kind: str, *, is_source: bool) -> Layout:
        sizes: list[int] = []
        for _ in range(self.random.randint(1, 3)):
            sizes.append(self.random.randint(1, min(4, self.ranks // math.prod(sizes))))
        ranks = self.random.sample(range(self.ranks), math.prod(sizes))
        placements = tuple(self.placement(dims, kind, is_source) for _ in sizes)
        return Layout(torch.tensor(ranks).reshape(sizes), placements)

    def placement(self, dims: int, kind: str, is_source: bool) -> Placement:
        drawn = self.random.randrange(10)
        if drawn == 0 and (is_source or kind != "product"):
            return Partial("sum" if kind == "avg" and self.random.random() < 0.5 else kind)
        if drawn <= 3 or dims == 0:
            return Replicate()
        dim = self.random.randrange(dims)
        if drawn <= 5:
            return _StridedShard(dim, split_factor=self.random.randint(1, 4))
        return Shard(dim)

    @staticmethod
    def values(shape: tuple[int, ...], dtype: torch.dtype, number: int) -> torch.Tensor:
        """Small whole numbers, so that sums and products of a few are exact, and so are casts."""
        count = math.prod(shape)
        numbers = (torch.arange(count) * 7 + number * 5 + torch.arange(count) * number) % 13 - 3
        return numbers.reshape(shape).to(dtype)


def all_places(layout: Layout) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, layout.mesh.shape)))
