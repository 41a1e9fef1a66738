"""Parts of tensors: where a rank is on a mesh, what of a tensor it has there, and how parts make a whole again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from merak.sharding import collectives
from merak.sharding.collectives import begin_of
from merak.sharding.program import Layout
from merak.sharding.symbols import chunk_of


class Place(NamedTuple):
    """Where a rank is along an axis.

    Attributes:
        group: name of the group of the ranks along the axis that share all other places.
    """

    rank: int
    ranks: int
    group: str


def is_divided(layout: Layout) -> bool:
    """Whether a rank has only a part of a tensor with that layout."""
    return any(axes for pieces in layout for _, axes in pieces)


def parts(tensor: torch.Tensor, layout: Layout, places: Sequence[Place]) -> torch.Tensor:
    """The part of a whole tensor that the rank at these places has."""
    for dim, pieces in enumerate(layout):
        if not is_divided([pieces]):
            continue
        split = tensor.unflatten(dim, [size for size, _ in pieces])
        for number, (size, axes) in enumerate(pieces):
            begin, length = range_of(size, axes, places)
            split = split.narrow(dim + number, begin, length)
        tensor = split.flatten(dim, dim + len(pieces) - 1)
    return tensor


def local_shape(layout: Layout, places: Sequence[Place]) -> list[int]:
    """Of the part that the rank at these places has of a tensor with that layout."""
    return [math.prod(range_of(size, axes, places)[1] for size, axes in pieces) for pieces in layout]


def whole_shape(layout: Layout) -> list[int]:
    """Of the whole tensor."""
    return [math.prod(size for size, _ in pieces) for pieces in layout]


def range_of(size: int, axes: Sequence[int], places: Sequence[Place]) -> tuple[int, int]:
    """Where the part of a size that the rank at these places has begins, and its length."""
    begin, length = 0, size
    for axis in axes:
        ranks, rank = places[axis].ranks, places[axis].rank
        begin += begin_of(length, ranks, rank)
        length = chunk_of(length, ranks, rank)
    return begin, length


def pieces_of(
    tensor: torch.Tensor, layout: Layout, places: Sequence[Place]
) -> list[tuple[list[int], list[int], torch.Tensor]]:
    """What of the whole tensor a part is: where each of its pieces begins there, its shape, and a view of the part.

    Args:
        tensor: the part that the rank at these places has.
    """
    pieces: list[tuple[list[int], list[int], torch.Tensor]] = [([], [], tensor)]
    for dim, of_dim in enumerate(layout):
        numbers = parts(torch.arange(math.prod(size for size, _ in of_dim)), [of_dim], places)
        jumps = (torch.nonzero(numbers.diff() != 1).flatten() + 1).tolist()
        runs = [(begin, end) for begin, end in itertools.pairwise([0, *jumps, len(numbers)]) if end > begin]
        pieces = [
            ([*where, int(numbers[begin])], [*shape, end - begin], view.narrow(dim, begin, end - begin))
            for where, shape, view in pieces
            for begin, end in runs
        ]
    return pieces


def gather(tensor: torch.Tensor, layout: Layout, places: Sequence[Place]) -> torch.Tensor:
    """The whole of a tensor that this rank has a part of. Collective over the mesh."""
    for dim, axis, cut in _gathers(layout, places):
        place = places[axis]
        tensor = collectives.all_gather(tensor, place.group, dim, *cut, place.ranks, place.rank)
    return tensor


def _gathers(layout: Layout, places: Sequence[Place]) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    for dim, pieces in enumerate(layout):
        now = [(size, list(axes)) for size, axes in pieces]
        for number in reversed(range(len(now))):
            axes = now[number][1]
            while axes:
                axis = axes.pop()
                local = [range_of(*piece, places)[1] for piece in now]
                yield dim, axis, (math.prod(local[:number]), local[number], math.prod(local[number + 1 :]))


def places_of(mesh: Mapping[str, int], rank: int, groups: Mapping[str, str]) -> list[Place]:
    """A rank's places on a mesh whose last axis counts fastest.

    Args:
        groups: names of this rank's groups, by axis.
    """
    places = []
    for name, ranks in reversed(list(mesh.items())):
        rank, place = divmod(rank, ranks)
        places.append(Place(place, ranks, groups[name]))
    return places[::-1]
