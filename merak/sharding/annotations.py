"""What a user says of a few tensors: over which axes of the mesh their dimensions are divided.

A *specification* has an entry for each dimension: None leaves it open, a name of an axis (or of a part of one, such as
"tp:(2)4", see `merak.sharding.sub_axes`) or a tuple of them divides it, `Dim` says more. *Tactics* are functions from a
graph to annotations, such as `megatron("tp")`; of a list of them the earlier ones win, since all that follows from one
is settled before the next is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import fx

from merak.sharding.program import ShardableGraph


@dataclass(frozen=True)
class Dim:
    """A dimension.

    Attributes:
        axes: that divide it, major to minor.
        closed: it gets no more axes than these. A closed dimension without axes stays whole.
    """

    axes: tuple[str, ...] = ()
    closed: bool = False


Entry = None | str | tuple[str, ...] | Dim
Specification = Sequence[Entry]


@dataclass(frozen=True)
class Annotation:
    """A wish for one tensor.

    Attributes:
        tensor: names of parameters, of modules (their results) or of nodes; with * for anything.
        spec: by dimension.
        priority: the lower, the earlier; a tactic's number by default.
        spreads: whether other tensors follow; else it only says how the tensor is kept.
        label: what it is called where something is said of it.
        of_tactic: a tactic has made it, and not the user by hand.
    """

    tensor: str
    spec: tuple[Entry, ...]
    priority: int | None = None
    spreads: bool = True
    label: str = ""
    of_tactic: bool = False


Tactic = Callable[[ShardableGraph], Sequence[Annotation]]

AnnotationTuple = tuple[int, int, list[int], bool, int, bool, str]


def annotate(tensor: str, spec: Specification, *, priority: int | None = None, spreads: bool = True) -> Annotation:
    """An annotation of all tensors of that name; see `Annotation`.

    Raises:
        ValueError: the specification makes no sense.
    """
    if isinstance(spec, str) or not isinstance(spec, Sequence):
        raise ValueError(f"{tensor}: the specification is {spec!r}; it must have an entry for each dimension")
    for entry in spec:
        if not _is_entry(entry):
            raise ValueError(
                f"{tensor}: {entry!r} is no entry: give None, an axis, a tuple of axes, or a Dim of a tuple"
            )
    return Annotation(tensor, tuple(spec), priority, spreads, f"annotate({tensor!r}, {tuple(spec)})")


def _is_entry(entry: object) -> bool:
    axes = entry.axes if isinstance(entry, Dim) else entry
    if isinstance(axes, tuple):
        return all(isinstance(axis, str) for axis in axes)
    return not isinstance(entry, Dim) and (axes is None or isinstance(axes, str))


def listed(graph: ShardableGraph, wishes: Sequence[Annotation | Tactic]) -> list[Annotation]:
    """All annotations, those of tactics included, each with its priority: even numbers, so that there is room between.

    Raises:
        ValueError: a wish is neither an annotation nor a tactic for this graph.
    """
    found = []
    for number, wish in enumerate(wishes):
        by_hand = isinstance(wish, Annotation)
        for one in [wish] if isinstance(wish, Annotation) else _of_tactic(graph, wish, number):
            priority = number if one.priority is None else one.priority
            found.append(replace(one, priority=2 * priority, of_tactic=one.of_tactic or not by_hand))
    return found


def axes_named(annotations: Sequence[Annotation]) -> Iterator[tuple[str, str]]:
    """The axes that annotations name, each with who does."""
    for annotation in annotations:
        for entry in annotation.spec:
            yield from ((axis, annotation.label) for axis in ([] if entry is None else _axes(entry)[0]))


def resolve(graph: ShardableGraph, annotations: Sequence[Annotation]) -> list[AnnotationTuple]:
    """Annotations in terms of values and axes, for C++.

    Raises:
        ValueError: a name is of nothing, an axis is unknown, or a specification has not as many dimensions as a tensor.
    """
    return [one for annotation in annotations for one in _of_annotation(graph, annotation)]


def _of_tactic(graph: ShardableGraph, tactic: Any, number: int) -> Sequence[Annotation]:
    made = tactic(graph) if callable(tactic) else None
    if not isinstance(made, list):
        raise ValueError(
            f"annotations[{number}] is {getattr(tactic, '__name__', repr(tactic))}; it must be an `annotate(...)`, or "
            "a tactic for an axis of the mesh, such as `megatron('tp')`"
        )
    return made


def _of_annotation(graph: ShardableGraph, annotation: Annotation) -> Iterator[AnnotationTuple]:
    assert annotation.priority is not None, "those that are listed have one"
    nodes = named(graph, annotation.tensor)
    if not nodes:
        known = sorted(key for kind, key in graph.captured.sources.values() if kind == "parameter")
        raise ValueError(
            f"{annotation.label}: no tensor is called so; parameters are {', '.join(known[:20])}, and modules and "
            "operations of the graph stand for their results"
        )
    for node in nodes:
        dims = len(node.meta["val"].shape)
        if len(annotation.spec) != dims:
            raise ValueError(
                f"{annotation.label}: {node.name} has {dims} dimensions, and the specification {len(annotation.spec)}"
            )
        for dim, entry in enumerate(annotation.spec):
            if entry is None:
                continue
            axes, closed = _axes(entry)
            numbers = [number for axis in axes for number in _numbers_of(graph, axis, annotation)]
            yield graph.number[node], dim, numbers, closed, annotation.priority, annotation.spreads, annotation.label


def _numbers_of(graph: ShardableGraph, axis: str, annotation: Annotation) -> list[int]:
    try:
        return graph.axes(axis)
    except ValueError as error:
        raise ValueError(f"{annotation.label}: {error}. (Part of an axis is written axis:(m)n.)") from None


def _axes(entry: str | tuple[str, ...] | Dim) -> tuple[tuple[str, ...], bool]:
    if isinstance(entry, Dim):
        return entry.axes, entry.closed
    return ((entry,) if isinstance(entry, str) else entry), False


def named(graph: ShardableGraph, pattern: str) -> list[fx.Node]:
    """The tensors that a name stands for: of a module, what its last operation makes."""
    if found := _matching(graph.by_name, pattern):
        return [node for node in found if node not in graph.free or node.op == "placeholder"]
    return list(dict.fromkeys(_matching(graph.by_module, pattern)))


def _matching(nodes: Mapping[str, list[fx.Node]], pattern: str) -> list[fx.Node]:
    if not any(one in pattern for one in "*?["):
        return nodes.get(pattern, [])
    return [node for name, several in nodes.items() if fnmatchcase(name, pattern) for node in several]
