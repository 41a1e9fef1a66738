"""The ways in which a mesh of ranks may share each operation of a graph, and the layouts that tensors may have.

An operation has *factors*, as in einsum (csrc/sharding/rule.h). A *strategy* says for each axis of the mesh which
factor it divides, or that it divides none, so that its ranks all compute the same. From that follows what an operation
needs of its operands, and how its results come out: divided, or, if a factor that is summed over is divided, as a
partial sum. The sum is completed at once, and a strategy also says how: whole (an all-reduce), or divided along a
dimension (a reduce-scatter).

A dimension may be a product of others: rows times positions, three times heads times their features. How it is cut
depends on which of them is divided, and operations that do not care, such as a product, have to agree with those
that do. So all dimensions are first written as products of *atoms*, the finest that any operation tells apart: cuts are
passed along the factors, from tensor to tensor, until nothing is new. A *layout* then says for each atom of each
dimension which axes divide it; two tensors lie alike exactly if their layouts are equal.

Between layouts travels what csrc/sharding/reshard.h says, forward and backward: that is asked, not repeated here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from torch import fx

from merak import _C
from merak.sharding.program import Operation, ShardableGraph

Axes = tuple[int, ...]
Divided = tuple[Axes, ...]
"""Of a factor or a dimension, by atom, the major first: the axes that divide it."""
TensorLayout = tuple[Divided, ...]

_DIVISIBLE = {"pass", "reduce", "partial", "inside"}
_SUMMED = {"reduce", "partial"}
_ADDED = {"linear": 2, "addmm": 0, "baddbmm": 0, "conv1d": 2, "conv2d": 2, "conv3d": 2}
"""By operation, the operand that is added to a sum once that is complete (csrc/sharding/rule.h)."""
_BACKWARD = {
    "reduce_scatter": "all_gather",
    "all_gather": "reduce_scatter",
    "slice": "all_gather",
    "vary": "all_reduce",
}


@dataclass(frozen=True)
class Need:
    """How an operation takes an operand.

    Attributes:
        layout: as it takes it.
        varies: the axes over which what it computes with it differs, so that the gradient is a sum over them.
    """

    layout: TensorLayout
    varies: Axes


@dataclass(frozen=True)
class Strategy:
    """A way to share an operation.

    Attributes:
        divided: by factor.
        needs: by operand; None for one that is not given.
        made: by result, its layout before sums are completed; None for one that nobody takes.
        kept: by result, its layout.
        partial: the axes over which the first result is a partial sum.
        share: of the work, that a rank has.
    """

    divided: tuple[Divided, ...]
    needs: tuple[Need | None, ...]
    made: tuple[TensorLayout | None, ...]
    kept: tuple[TensorLayout | None, ...]
    partial: Axes
    share: float


@dataclass(frozen=True)
class Travel:
    """A collective of a reshard.

    Attributes:
        axis: of the mesh.
        kind, backward_kind: as clusters call it; "" where nothing travels.
        share, backward_share: of the tensor's bytes, by which the collective is priced.
    """

    axis: int
    kind: str
    share: float
    backward_kind: str
    backward_share: float

    @property
    def only_sums(self) -> bool:
        """Whether it is nothing but a sum of gradients, which of a parameter can wait for the end of a step."""
        return not self.kind and self.backward_kind == "all_reduce"


class Cuts:
    """The atoms of all dimensions.

    A cut is a number of elements, counted from the minor end: rows times positions have {1, positions, rows *
    positions}. Each cut of a dimension is a multiple of the one before.

    Args:
        graph: with the operations' rules.
    """

    def __init__(self, graph: ShardableGraph) -> None:
        self.graph = graph
        self.rules = [graph.rule(number) for number in range(len(graph.operations))]
        self._of_dims = {node: [{1, size} for size in graph.shape(node)] for node in graph.values}
        self._of_factors = [[{1, size} for size, _ in factors] for factors, _, _ in self.rules]
        users: dict[fx.Node, set[int]] = {}
        for number in range(len(graph.operations)):
            for node, _ in self.tensors(number):
                users.setdefault(node, set()).add(number)
        waiting = set(range(len(graph.operations)))
        while waiting:
            number = min(waiting)
            waiting.remove(number)
            for node in self._pass_on(number):
                waiting |= users[node]

    def atoms(self, node: fx.Node, dim: int) -> list[int]:
        """Sizes, the major first."""
        return _sizes(self._of_dims[node][dim])

    def atoms_of_factor(self, number: int, factor: int) -> list[int]:
        """Sizes, the major first, of an operation's factor."""
        return _sizes(self._of_factors[number][factor])

    def tensors(self, number: int) -> Iterator[tuple[fx.Node, list[list[int]]]]:
        """Of an operation those that may be divided, and by dimension their factors."""
        operation, (_, operands, results) = self.graph.operations[number], self.rules[number]
        nodes = (*operation.operands, *operation.results)
        for node, dims in zip(nodes, (*operands, *results), strict=True):
            if node is not None and node in self._of_dims:
                yield node, dims

    def layout(
        self, number: int, node: fx.Node, dims: Sequence[Sequence[int]], divided: Sequence[Divided]
    ) -> TensorLayout | None:
        """A tensor's, where an operation's factors are divided so; None if it has not the cuts for that.

        Args:
            dims: by dimension, its factors.
        """
        found = []
        for dim, factors in enumerate(dims):
            axes_at: dict[int, Axes] = {}
            below = 1
            for factor in reversed(factors):
                cuts = sorted(self._of_factors[number][factor])
                axes_at |= {
                    below * cut: axes for cut, axes in zip(cuts[1:], reversed(divided[factor]), strict=True) if axes
                }
                below *= cuts[-1]
            of_dim = sorted(self._of_dims[node][dim])
            if axes_at.keys() - set(of_dim):
                return None
            found.append(tuple(axes_at.get(cut, ()) for cut in reversed(of_dim[1:])))
        return tuple(found)

    def _pass_on(self, number: int) -> Iterator[fx.Node]:
        """Passes an operation's cuts on; gives the tensors that have new ones."""
        tensors = list(self.tensors(number))
        for node, dims in tensors:
            for dim, factors in enumerate(dims):
                self._take(number, factors, self._of_dims[node][dim])
        for node, dims in tensors:
            news = [self._give(number, factors, self._of_dims[node][dim]) for dim, factors in enumerate(dims)]
            if any(news):
                yield node

    def _take(self, number: int, factors: Sequence[int], of_dim: set[int]) -> None:
        below = 1
        for factor in reversed(factors):
            cuts = self._of_factors[number][factor]
            size = max(cuts)
            inside = sorted(cut // below for cut in of_dim if cut % below == 0 and below < cut < below * size)
            for cut in inside:
                _add(cuts, cut)
            below *= size

    def _give(self, number: int, factors: Sequence[int], of_dim: set[int]) -> bool:
        below, is_new = 1, False
        for factor in reversed(factors):
            cuts = self._of_factors[number][factor]
            for cut in sorted(cuts):
                is_new |= _add(of_dim, below * cut)
            below *= max(cuts)
        return is_new


class Strategies:
    """All strategies of a graph's operations.

    Args:
        graph: over the mesh.
        rows_over: names of the axes that may divide the batch's rows; all by default.
    """

    def __init__(self, graph: ShardableGraph, rows_over: Collection[str] | None = None) -> None:
        self.graph, self.cuts = graph, Cuts(graph)
        self.ranks = list(graph.mesh.values())
        self._rows_over = {axis for axis, name in enumerate(graph.mesh) if rows_over is None or name in rows_over}

    def of(self, number: int) -> list[Strategy]:
        """Of an operation; the first divides nothing."""
        factors = self.cuts.rules[number][0]
        atoms = [self.cuts.atoms_of_factor(number, factor) for factor in range(len(factors))]
        divisible = [of if kind in _DIVISIBLE else [1] * len(of) for of, (_, kind) in zip(atoms, factors, strict=True)]
        return [one for divided in self._divisions(divisible) for one in self._with(number, divided)]

    def layouts(self, node: fx.Node) -> list[TensorLayout]:
        """All that divide at most one atom over each axis; the first is whole."""
        return list(self._divisions([self.cuts.atoms(node, dim) for dim in range(len(self.graph.shape(node)))]))

    def whole(self, node: fx.Node) -> TensorLayout:
        """Of a tensor that is not divided."""
        return self.layouts(node)[0]

    def share(self, node: fx.Node, layout: TensorLayout) -> float:
        """Of a tensor's bytes, that a rank has; rounded up where it does not divide evenly."""
        return self._share([self.cuts.atoms(node, dim) for dim in range(len(layout))], layout)

    def travels(
        self, node: fx.Node, before: TensorLayout, partial: Axes, need: Need, *, has_gradient: bool
    ) -> tuple[Travel, ...]:
        """What travels from one layout of a tensor, perhaps a partial sum, to another."""
        if not partial and before == need.layout and not (need.varies and has_gradient):
            return ()
        atoms = tuple(tuple(self.cuts.atoms(node, dim)) for dim in range(len(before)))
        found = _travels(tuple(self.graph.mesh.items()), atoms, before, partial, need)
        if has_gradient:
            return found
        return tuple(Travel(one.axis, one.kind, one.share, "", 0.0) for one in found if one.kind)

    def _divisions(self, atoms: Sequence[Sequence[int]]) -> Iterator[tuple[Divided, ...]]:
        """Each axis divides one atom, or none. An atom is as large as all axes that divide it together."""
        places = [(i, j, size) for i, sizes in enumerate(atoms) for j, size in enumerate(sizes)]
        choices = [
            [None, *((i, j) for i, j, size in places if size >= ranks and self._may_divide(size, axis))]
            for axis, ranks in enumerate(self.ranks)
        ]
        for chosen in itertools.product(*choices):
            over: dict[tuple[int, int] | None, list[int]] = {}
            for axis, place in enumerate(chosen):
                over.setdefault(place, []).append(axis)
            ranks = {place: math.prod(self.ranks[axis] for axis in axes) for place, axes in over.items()}
            if all(size >= ranks.get((i, j), 1) for i, j, size in places):
                yield tuple(tuple(tuple(over.get((i, j), ())) for j in range(len(of))) for i, of in enumerate(atoms))

    def _may_divide(self, size: int, axis: int) -> bool:
        return axis in self._rows_over or all(size % rows for rows in self.graph.rows)

    def _with(self, number: int, divided: tuple[Divided, ...]) -> Iterator[Strategy]:
        """Those that divide an operation's factors so; none where a tensor has not the cuts for it."""
        factors, operands, results = self.cuts.rules[number]
        operation, over = self.graph.operations[number], _axes(divided)
        taken = [self._layout(number, *pair, divided) for pair in zip(operation.operands, operands, strict=True)]
        made = [self._layout(number, *pair, divided) for pair in zip(operation.results, results, strict=True)]
        if any(
            layout is None and node in self.graph.number
            for node, layout in zip((*operation.operands, *operation.results), (*taken, *made), strict=True)
        ) or any(
            layout != self.whole(node)
            for node, layout in zip(operation.results, made, strict=True)
            if node is not None and node in self.graph.whole
        ):
            return
        partial = _axes([of for of, (_, kind) in zip(divided, factors, strict=True) if kind in _SUMMED])
        needs = tuple(None if layout is None else Need(layout, _but(over, layout)) for layout in taken)
        share = self._share([self.cuts.atoms_of_factor(number, one) for one in range(len(factors))], divided)
        for kept in self._sums(operation, made[0], partial):
            given = self._with_added(number, needs, kept) if partial else needs
            yield Strategy(divided, given, tuple(made), (kept, *made[1:]), partial, share)

    def _layout(
        self, number: int, node: fx.Node | None, dims: Sequence[Sequence[int]], divided: Sequence[Divided]
    ) -> TensorLayout | None:
        if node is None or node not in self.graph.number:
            return None
        return self.cuts.layout(number, node, dims, divided)

    def _sums(self, operation: Operation, made: TensorLayout | None, partial: Axes) -> Iterator[TensorLayout | None]:
        """Layouts of a result whose sum is completed: over each axis whole, or divided."""
        node = operation.results[0]
        if not partial or node is None or made is None or node in self.graph.whole:
            yield made
            return
        atoms = [self.cuts.atoms(node, dim) for dim in range(len(made))]
        for scattered in self._divisions(atoms):
            if set(_axes(scattered)) <= set(partial):
                yield tuple(
                    tuple(one or other for one, other in zip(*of_dim, strict=True))
                    for of_dim in zip(made, scattered, strict=True)
                )

    def _with_added(
        self, number: int, needs: tuple[Need | None, ...], kept: TensorLayout | None
    ) -> tuple[Need | None, ...]:
        """What is added to a complete sum has to be laid out like that."""
        added = _ADDED.get(self.graph.operations[number].name)
        if added is None or added >= len(needs) or needs[added] is None or kept is None:
            return needs
        node = self.graph.operations[number].operands[added]
        assert node is not None, "what is needed is given"
        factors, operands, results = self.cuts.rules[number]
        divided: list[Divided] = [
            ((),) * len(self.cuts.atoms_of_factor(number, factor)) for factor in range(len(factors))
        ]
        for of_factors, of_dim in zip(results[0], kept, strict=True):
            at = 0
            for factor in of_factors:
                count = len(divided[factor])
                divided[factor] = of_dim[at : at + count]
                at += count
        layout = self.cuts.layout(number, node, operands[added], divided) or self.whole(node)
        need = Need(layout, _but(_axes(kept), layout))
        return (*needs[:added], need, *needs[added + 1 :])

    def _share(self, atoms: Sequence[Sequence[int]], divided: Sequence[Divided]) -> float:
        share = 1.0
        for sizes, of in zip(atoms, divided, strict=True):
            for size, axes in zip(sizes, of, strict=True):
                share *= math.ceil(size / math.prod(self.ranks[axis] for axis in axes)) / size
        return share


def _sizes(cuts: set[int]) -> list[int]:
    ordered = sorted(cuts, reverse=True)
    return [larger // smaller for larger, smaller in itertools.pairwise(ordered)]


def _add(cuts: set[int], cut: int) -> bool:
    """Adds a cut where it fits between the others."""
    if cut in cuts or any(cut % other and other % cut for other in cuts) or cut > max(cuts):
        return False
    cuts.add(cut)
    return True


def _axes(divided: Sequence[Divided]) -> Axes:
    return tuple(sorted({axis for of in divided for axes in of for axis in axes}))


def _but(axes: Axes, layout: TensorLayout) -> Axes:
    used = _axes(layout)
    return tuple(axis for axis in axes if axis not in used)


@cache
def _travels(
    mesh: tuple[tuple[str, int], ...],
    atoms: tuple[tuple[int, ...], ...],
    before: TensorLayout,
    partial: Axes,
    need: Need,
) -> tuple[Travel, ...]:
    """Of a tensor that has a gradient."""
    one, other = (
        [list(zip(sizes, map(list, of), strict=True)) for sizes, of in zip(atoms, layout, strict=True)]
        for layout in (before, need.layout)
    )
    found = []
    for step in _C.sharding_steps(list(mesh), one, list(partial), other, list(need.varies)):
        (axis,), kind = step["axes"], step["kind"]
        n = mesh[axis][1]
        back = _BACKWARD.get(kind, kind if kind == "all_to_all" else "") if step["backward_nbytes"] else ""
        forward = "" if kind in ("vary", "slice") else kind
        there, here = (
            sent * n / (n - 1) / (2 if of == "all_reduce" else 1)
            for of, sent in ((forward, step["nbytes"]), (back, step["backward_nbytes"]))
        )
        found.append(Travel(axis, forward, there if forward else 0.0, back, here if back else 0.0))
    return tuple(found)
