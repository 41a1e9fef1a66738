"""What a user says of a few tensors: over which axes of the mesh their dimensions are divided.

A *specification* has an entry for each dimension: None leaves it open, a name of an axis (or of a part of one, such as
"tp:(2)4", see `merak.sharding.sub_axes`) or a tuple of them divides it, `Dim` says more. *Tactics* are functions from a
graph to annotations, such as `megatron("tp")`; of a list of them the earlier ones win, since all that follows from one
is settled before the next is looked at: a place in the list is the priority of what is given none.

An earlier annotation often settles, by what follows from it, what a later one asks for, and that is no contradiction.
But two that are made by hand, without priorities, and ask for different things of the very same tensor are a mistake.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

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

    def __repr__(self) -> str:
        given = [repr(self.axes)] * bool(self.axes) + ["closed=True"] * self.closed
        return f"Dim({', '.join(given)})"


Entry = None | str | tuple[str, ...] | Dim
Specification = Sequence[Entry]


@dataclass(frozen=True)
class Annotation:
    """A wish for one tensor.

    Attributes:
        tensor: names of parameters, of modules (their results), of nodes or of inputs; with * for anything.
        spec: by dimension. Of an input only rows can be divided; what is computed from them is.
        priority: the lower, the earlier; the place in the list by default, 0 for the first.
        spreads: whether other tensors follow; else it only says how the tensor is kept.
        label: what it is called where something is said of it.
        of_tactic: a tactic has made it, and not the user by hand.
        unordered: no priority was asked for, so that another of the same tensor must not contradict it.
    """

    tensor: str
    spec: tuple[Entry, ...]
    priority: int | None = None
    spreads: bool = True
    label: str = ""
    of_tactic: bool = False
    unordered: bool = False


Tactic = Callable[[ShardableGraph], Sequence[Annotation]]

AnnotationTuple = tuple[int, int, list[int], bool, int, bool, str]


def annotate(tensor: str, spec: Specification, *, priority: int | None = None, spreads: bool = True) -> Annotation:
    """An annotation of all tensors of that name; see `Annotation`.

    Args:
        priority: the lower, the earlier. By default it is the place in the list of annotations and tactics, from 0 on:
            -1 goes before all that are given none. Two of the same tensor that contradict each other need it.

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
    more = ("" if priority is None else f", {priority=}") + ("" if spreads else f", {spreads=}")
    label = f"annotate({tensor!r}, {tuple(spec)}{more})"
    return Annotation(tensor, tuple(spec), priority, spreads, label, unordered=priority is None)


def _is_entry(entry: object) -> bool:
    axes = entry.axes if isinstance(entry, Dim) else entry
    if isinstance(axes, tuple):
        return all(isinstance(axis, str) for axis in axes)
    return not isinstance(entry, Dim) and (axes is None or isinstance(axes, str))


def as_list(wishes: Annotation | Tactic | Iterable[Annotation | Tactic]) -> list[Annotation | Tactic]:
    """A list of annotations and tactics, of which a single one may be given without a list.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(wishes, Annotation) or callable(wishes):
        return [wishes]
    if isinstance(wishes, str | Mapping) or not isinstance(wishes, Iterable):
        raise ValueError(
            f"annotations is {wishes!r}; it must be a list of annotations and tactics, such as "
            "[batch('dp'), annotate('head.weight', ('tp', None))]"
        )
    return list(wishes)


def listed(graph: ShardableGraph, wishes: Sequence[Annotation | Tactic]) -> list[Annotation]:
    """All annotations, those of tactics included, each with its priority: even numbers, so that there is room between.

    Raises:
        ValueError: a wish is neither an annotation nor a tactic for this graph.
    """
    return [one for of_wish in listed_by_wish(graph, wishes) for one in of_wish]


def listed_by_wish(graph: ShardableGraph, wishes: Sequence[Annotation | Tactic]) -> list[list[Annotation]]:
    """The same, by annotation and tactic."""
    found = []
    for number, wish in enumerate(wishes):
        by_hand = isinstance(wish, Annotation)
        of_wish = []
        for one in [wish] if isinstance(wish, Annotation) else _of_tactic(graph, wish, number):
            priority = number if one.priority is None else one.priority
            of_wish.append(replace(one, priority=2 * priority, of_tactic=one.of_tactic or not by_hand))
        found.append(of_wish)
    return found


def axes_named(annotations: Sequence[Annotation]) -> Iterator[tuple[str, str]]:
    """The axes that annotations name, each with who does."""
    for annotation in annotations:
        for entry in annotation.spec:
            yield from ((axis, annotation.label) for axis in ([] if entry is None else _axes(entry)[0]))


def resolve(graph: ShardableGraph, annotations: Sequence[Annotation]) -> list[AnnotationTuple]:
    """Annotations in terms of values and axes, for C++.

    Raises:
        ValueError: a name is of nothing, an axis is unknown, a specification has not as many dimensions as a tensor, or
            two contradict each other.
    """
    asked = [one for annotation in annotations for one in _asked(graph, annotation)]
    _refuse_contradictions(graph, [one for one in asked if one.by.unordered and not one.by.of_tactic])
    return [one for wish in asked for one in _for_core(graph, wish)]


class _Asked(NamedTuple):
    """What an annotation asks for of a dimension of a tensor, axes by number."""

    node: fx.Node
    dim: int
    axes: list[int]
    closed: bool
    by: Annotation


def _of_tactic(graph: ShardableGraph, tactic: Any, number: int) -> Sequence[Annotation]:
    made = tactic(graph) if callable(tactic) else None
    if not isinstance(made, list):
        raise ValueError(
            f"annotations[{number}] is {getattr(tactic, '__name__', repr(tactic))}; it must be an `annotate(...)`, or "
            "a tactic for an axis of the mesh, such as `megatron('tp')`"
        )
    return made


def _asked(graph: ShardableGraph, annotation: Annotation) -> Iterator[_Asked]:
    nodes = named(graph, annotation.tensor)
    if not nodes:
        raise ValueError(f"{annotation.label}: {_of_nothing(graph, annotation.tensor)}")
    for node in nodes:
        dims = len(graph.shape(node))
        if len(annotation.spec) != dims:
            of_module = "its result " if annotation.tensor in graph.by_module and node.op != "placeholder" else ""
            raise ValueError(
                f"{annotation.label}: {of_module}{graph.name(node)} {graph.shape_text(node)} has {dims} dimensions, "
                f"and the specification {len(annotation.spec)}"
            )
        for dim, entry in enumerate(annotation.spec):
            if entry is not None:
                axes, closed = _axes(entry)
                numbers = [number for axis in axes for number in _numbers_of(graph, axis, annotation)]
                yield _Asked(node, dim, numbers, closed, annotation)


def _for_core(graph: ShardableGraph, asked: _Asked) -> Iterator[AnnotationTuple]:
    """With all that follows for what is computed from an input: inputs are whole on every rank."""
    node, dim, axes, closed, by = asked
    assert by.priority is not None, "those that are listed have one"
    places = [(node, dim)]
    if axes and graph.is_input(node):
        if not graph.is_of_rows(node, dim):
            raise ValueError(
                f"{by.label}: dimension {dim} of the input {graph.name(node)} {graph.shape_text(node)} cannot be "
                "divided: every rank has it whole, as it is given. Of an input only rows of the batch can, as with "
                "batch('dp'), where the model takes any number of them. For others annotate a module or an operation "
                "that takes it"
            )
        places = list(graph.results_of_rows())
    for of, at in places:
        yield graph.number[of], at, axes, closed, by.priority, by.spreads, by.label


def _refuse_contradictions(graph: ShardableGraph, asked: Sequence[_Asked]) -> None:
    of_node: dict[fx.Node, list[_Asked]] = {}
    for one in asked:
        of_node.setdefault(one.node, []).append(one)
    for several in of_node.values():
        for one, other in itertools.combinations(several, 2):
            if one.by is not other.by and (why := _contradiction(graph, one, other)):
                raise ValueError(
                    f"{one.by.label} and {other.by.label} contradict each other: of {graph.name(one.node)} "
                    f"{graph.shape_text(one.node)} {why}. Leave one out, or say which one comes first: priority=-1 is "
                    "before all that have none"
                )


def _contradiction(graph: ShardableGraph, one: _Asked, other: _Asked) -> str:
    """Why no layout follows both; nothing if one does."""
    names = list(graph.mesh)
    if one.dim != other.dim:
        both = [names[axis] for axis in one.axes if axis in other.axes]
        text = f"dimensions {one.dim} and {other.dim} both ask for axis {', '.join(both)}, which divides only one"
        return text if both else ""
    less, more = sorted((one, other), key=lambda wish: len(wish.axes))
    if more.axes[: len(less.axes)] == less.axes and not (less.closed and len(more.axes) > len(less.axes)):
        return ""
    texts = [
        f"({', '.join(names[axis] for axis in wish.axes)}){' and no more' * wish.closed}" if wish.axes else "whole"
        for wish in (one, other)
    ]
    return f"dimension {one.dim} is to be {texts[0]} and {texts[1]}"


def _of_nothing(graph: ShardableGraph, name: str) -> str:
    """That a name is of no tensor that an annotation can be of, and which may have been meant."""
    if _matching(graph.by_name, name):
        return "it is made of the batch alone, so that every rank has it whole: annotate what is computed from it"
    parameters = sorted(key for kind, key in graph.captured.sources.values() if kind == "parameter")
    known = [*parameters, *graph.by_module, *(other for other in graph.by_name if _usable(graph, graph.by_name[other]))]
    if close := difflib.get_close_matches(name, list(dict.fromkeys(filter(None, known))), n=4):
        return f"no tensor is called so; the closest names are {', '.join(close)}"
    some = ", ".join(parameters[:5]) + (f" and {len(parameters) - 5} more" if len(parameters) > 5 else "")
    return (
        f"no tensor is called so; parameters are {some}, and modules and operations of the graph stand for their "
        "results"
    )


def _numbers_of(graph: ShardableGraph, axis: str, annotation: Annotation) -> list[int]:
    try:
        return graph.axes(axis)
    except ValueError as error:
        raise no_axis(annotation.label, error) from None


def no_axis(label: str, error: ValueError) -> ValueError:
    """The error of whoever names an axis that the mesh has not."""
    return ValueError(f"{label}: {error}. (Part of an axis is written axis:(m)n.)")


def _axes(entry: str | tuple[str, ...] | Dim) -> tuple[tuple[str, ...], bool]:
    if isinstance(entry, Dim):
        return entry.axes, entry.closed
    return ((entry,) if isinstance(entry, str) else entry), False


def named(graph: ShardableGraph, pattern: str) -> list[fx.Node]:
    """The tensors that a name stands for: of a module, what its last operation makes."""
    if found := _matching(graph.by_name, pattern):
        return _usable(graph, found)
    return list(dict.fromkeys(_matching(graph.by_module, pattern)))


def _usable(graph: ShardableGraph, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if node not in graph.free or node.op == "placeholder"]


def _matching(nodes: Mapping[str, list[fx.Node]], pattern: str) -> list[fx.Node]:
    if not any(one in pattern for one in "*?["):
        return nodes.get(pattern, [])
    return [node for name, several in nodes.items() if fnmatchcase(name, pattern) for node in several]
