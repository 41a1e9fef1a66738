"""Parameters with fewer units than there are ranks: 2 heads of keys and values for 8 ranks that share attention.

No head is cut, so that 6 ranks would have none, and nothing to compute with the 8 heads of queries that follow them. As
Megatron-LM does, such a parameter is divided over part of the axis, as many ranks as it has units, and the others have
the same: heads of keys over "tp:(1)2", and those of queries over all of "tp". Since what follows it is cut into as few
pieces, only the smallest are changed at a time, and what becomes of the others is looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    length: int
    units: int
    axis: str


def annotations_for_short(completion: Completion) -> list[Annotation]:
    """What the smallest of those parameters should be divided over; nothing if there are none."""
    found = list(_find(completion))
    smallest = min((one.length for one in found), default=0)
    annotations = []
    for one in found:
        if one.length == smallest:
            part = parse(one.axis) or SubAxis(one.axis, 1, 0)
            axis = str(SubAxis(part.axis, part.before, one.units))
            dims = range(len(completion.layouts[one.node]))
            spec = tuple(Dim((axis,), closed=True) if dim == one.dim else None for dim in dims)
            annotations.append(Annotation(completion.name(one.node), spec, completion.before_all, label=_LABEL))
    return annotations


def _find(completion: Completion) -> Iterator[_Short]:
    names, sizes = list(completion.graph.mesh), list(completion.graph.mesh.values())
    for node in filter(completion.graph.is_parameter, completion.graph.values):
        for dim, pieces in enumerate(completion.layouts[node]):
            if len(pieces) < 2 or len(pieces[0][1]) != 1 or completion.is_closed(node, dim):
                continue
            units, (axis,) = pieces[0]
            if units < sizes[axis] and sizes[axis] % units == 0:
                yield _Short(node, dim, math.prod(size for size, _ in pieces), units, names[axis])
