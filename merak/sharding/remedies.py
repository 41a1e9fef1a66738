"""Annotations that would remove what travels.

Something travels because an operation needs a tensor otherwise than it is kept, makes a sum of what is divided, or
computes parts with what is whole. So what may help is to keep the tensor as the operation has it, or to keep whole what
is divided there: another tensor of the operation, or the one whose annotation divided that. Each of these is tried, as
the first of all annotations, and only what does remove it is told, with what it costs: something else travels, or work
is not divided any more, and every rank does all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import fx

from merak.resharding.explaining import count_text, size_text
from merak.sharding.annotations import Annotation, Dim, Entry, annotate

if TYPE_CHECKING:
    from merak.sharding.completion import Completion, Reshard
    from merak.sharding.program import Layout, Operation


class Remedy(NamedTuple):
    """An annotation without which something would travel.

    Attributes:
        annotation: to be put before all others.
        nbytes: how much more travels then in all, in a step of a rank; negative where it is less.
        axis: over which nothing travels then.
        undivided: operations whose work is divided over it now, and not then.
    """

    annotation: Annotation
    nbytes: float
    axis: str
    undivided: int

    def __str__(self) -> str:
        change = f"{size_text(abs(self.nbytes))} {'more' if self.nbytes > 0 else 'less'}" if self.nbytes else "as much"
        verb = "is" if self.undivided == 1 else "are"
        work = f", and {count_text(self.undivided, 'operation')} {verb} no longer divided over {self.axis}"
        return f"removed by {self.annotation.label}, put first: {change} in all{work if self.undivided else ''}"


def remedy(completion: Completion, reshard: Reshard) -> Remedy | None:
    """The annotation that removes a collective, of several the one with which the fewest bytes travel."""
    now = _travels(completion.reshards())
    found = []
    for annotation in dict.fromkeys(_candidates(completion, reshard)):
        changed = completion.with_first(annotation)
        then = changed.reshards()
        if not any(_is_same(one, reshard) for one in then):
            undivided = _divided(completion, reshard.axis) - _divided(changed, reshard.axis)
            found.append(Remedy(annotation, _travels(then) - now, reshard.axis, len(undivided)))
    return min(found, key=lambda one: one.nbytes, default=None)


def _divided(completion: Completion, axis: str) -> set[int]:
    """The operations whose work is divided over an axis, or over any part of it."""
    axes = set(completion.graph.axes(axis))
    return {number for number, way in enumerate(completion.ways) if axes.intersection(way["divided"])}


def _travels(reshards: Sequence[Reshard]) -> float:
    return sum(one.nbytes + one.backward_nbytes for one in reshards)


def _is_same(one: Reshard, other: Reshard) -> bool:
    """Whether they are of one tensor, for one operation, over one axis."""
    return (one.tensor, one.operation, one.axis) == (other.tensor, other.operation, other.axis)


def _candidates(completion: Completion, reshard: Reshard) -> Iterator[Annotation]:
    graph = completion.graph
    axis, first = graph.axis(reshard.axis), completion.first_priority
    number = next(i for i, one in enumerate(graph.operations) if one.node.name == reshard.operation)
    has = list(_tensors(graph.operations[number], completion.ways[number]))
    for node, layout in has:
        if completion.name(node) == reshard.tensor and node not in graph.free:
            yield annotate(reshard.tensor, [*_as(completion, node, layout)], priority=first(node))
    divided = [(node, _dims_on(layout, axis)) for node, layout in has]
    divided += [origin for node, dims in divided for origin in completion.origins(node, dims)]
    for node, dims in divided:
        if dims and node not in graph.free:
            yield annotate(completion.name(node), [*_without(completion, node, dims, axis)], priority=first(node))


def _tensors(operation: Operation, way: dict[str, object]) -> Iterator[tuple[fx.Node, Layout]]:
    """Those of an operation, as it has them."""
    layouts = [*way["operands"], *(layout for layout, _ in way["results"])]  # type: ignore[misc, attr-defined]
    for node, layout in zip((*operation.operands, *operation.results), layouts, strict=True):
        if node is not None:
            yield node, layout


def _axes(layout: Layout) -> list[list[int]]:
    return [[axis for _, axes in pieces for axis in axes] for pieces in layout]


def _dims_on(layout: Layout, axis: int) -> list[int]:
    return [dim for dim, axes in enumerate(_axes(layout)) if axis in axes]


def _as(completion: Completion, node: fx.Node, layout: Layout) -> Iterator[Entry]:
    """Kept like this."""
    for wanted, kept in zip(_axes(layout), _axes(completion.layouts[node]), strict=True):
        yield _entry(completion, wanted) if wanted else Dim(closed=True) if kept else None


def _without(completion: Completion, node: fx.Node, dims: Sequence[int], axis: int) -> Iterator[Entry]:
    """Not divided over an axis in these dimensions."""
    for dim, kept in enumerate(_axes(completion.layouts[node])):
        names = tuple(list(completion.graph.mesh)[one] for one in kept if one != axis)
        yield Dim(names, closed=True) if dim in dims else None


def _entry(completion: Completion, axes: Sequence[int]) -> Entry:
    names = tuple(list(completion.graph.mesh)[axis] for axis in axes)
    return names[0] if len(names) == 1 else names
