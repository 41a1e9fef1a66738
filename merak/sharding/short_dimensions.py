"""Parameters with fewer units than there are ranks: 2 heads of keys and values for 8 ranks that share attention.

No head is cut, so that 6 ranks would have none, and nothing to compute with the 8 heads of queries that follow them. As
Megatron-LM does, such a parameter is divided over part of the axis, as many ranks as it has units, and the others have
the same: heads of keys over "tp:(1)2", and those of queries over all of "tp". Since what follows it is cut into as few
pieces, only those with the smallest units are changed at a time, and what becomes of the others is looked at again.
What the user has annotated by hand is followed, though ranks be idle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from torch import fx

from merak.sharding.annotations import Annotation, Dim
from merak.sharding.sub_axes import SubAxis, parse

if TYPE_CHECKING:
    from merak.sharding.completion import Completion

_LABEL = "as many parts as there are units"


class _Short(NamedTuple):
    """A dimension of a parameter that has fewer units than the axis has ranks."""

    node: fx.Node
    dim: int
    units: int
    unit: int
    axis: str


def annotations_for_short(completion: Completion, annotations: Sequence[Annotation]) -> list[Annotation]:
    """What those parameters with the smallest units should be divided over, before tactics and behind what the user has
    annotated by hand; nothing if there are none.

    Args:
        annotations: that the completion comes from.
    """
    by_hand = [one.tensor for one in annotations if not one.of_tactic]
    found = [
        one
        for one in _find(completion)
        if not any(fnmatchcase(completion.name(one.node), pattern) for pattern in by_hand)
    ]
    smallest = min((one.unit for one in found), default=0)
    priority = min((one.priority or 0 for one in annotations if one.of_tactic), default=1) - 1
    made = []
    for one in found:
        if one.unit == smallest:
            part = parse(one.axis) or SubAxis(one.axis, 1, 0)
            axis = str(SubAxis(part.axis, part.before, one.units))
            dims = range(len(completion.layouts[one.node]))
            spec = tuple(Dim((axis,), closed=True) if dim == one.dim else None for dim in dims)
            made.append(Annotation(completion.name(one.node), spec, priority, label=_LABEL, of_tactic=True))
    return made


def _find(completion: Completion) -> Iterator[_Short]:
    """Dimensions whose first divided piece has fewer elements than ranks, and something in each: heads."""
    names, sizes = list(completion.graph.mesh), list(completion.graph.mesh.values())
    for node in filter(completion.graph.is_parameter, completion.graph.values):
        for dim, pieces in enumerate(completion.layouts[node]):
            number = next((number for number, (_, axes) in enumerate(pieces) if axes), len(pieces))
            if number + 1 >= len(pieces) or len(pieces[number][1]) != 1:
                continue
            units, (axis,) = pieces[number]
            if units < sizes[axis] and sizes[axis] % units == 0:
                yield _Short(node, dim, units, math.prod(size for size, _ in pieces[number + 1 :]), names[axis])
