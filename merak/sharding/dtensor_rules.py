"""Rules of operations that merak has none for, from DTensor's.

DTensor says of a call how it can be computed over one axis of a mesh: which dimension of each tensor is divided, and
whether the results are divided then, or terms of a sum. Each such way is a factor, if it is one that merak knows: what
it divides shares a size, and no other way divides one of these dimensions together with others. The rest is needed
whole.

A rank calls an operation with its parts and otherwise as it was called. So a factor counts only if that call, tried
on fake tensors, gives parts of the right shapes: not where a size is an argument, say.
What draws random numbers or writes to its arguments is never divided.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from merak._torch_compat import strategies_of_dtensor
from merak._torch_graphs import fake_mode, size_hint, trying_fakes
from merak.graph.randomness import is_random
from merak.sharding.symbols import chunk_of

if TYPE_CHECKING:
    from merak.sharding.program import Operation

Factors = list[tuple[int, str]]
Dims = list[list[list[int]]]
Rule = tuple[bool, Factors, Dims, Dims]
"""Whether it is elementwise; factors (size, kind); by tensor and dimension, which: of operands, and of results."""

Place = tuple[int, int]
"""A dimension of a tensor: results are counted first, then operands."""
Way = tuple[str, frozenset[Place]]
"""A kind of factor, and what is divided."""


def rule_of_dtensor(
    called: torch._ops.OpOverload, operation: Operation, shape: Callable[[fx.Node], list[int]]
) -> Rule | None:
    """The rule of a call, None if nothing of it may be divided.

    Args:
        called: what the operation calls, out of place.
        shape: of a value, as the rule is to have it; ways are looked for with those of the example.
    """
    if called._schema.is_mutable or torch.Tag.nondeterministic_seeded in called.tags or is_random(operation.node):
        return None
    mode = fake_mode()
    with mode:
        arguments = _example(operation.node, called)
    if arguments is None:
        return None
    call = _Call(called, arguments, operation, mode)
    ways = [way for way in _compatible(call.ways()) if call.gives_parts(way)]
    return _rule(torch.Tag.pointwise in called.tags, ways, operation, shape)


def _rule(
    elementwise: bool, ways: Sequence[Way], operation: Operation, shape: Callable[[fx.Node], list[int]]
) -> Rule | None:
    nodes = [*operation.results, *operation.operands]
    if any(node is not None and _is_one_by_chance(node, shape(node)) for node in nodes):
        return None
    shapes = [[] if node is None else shape(node) for node in nodes]
    factors: Factors = []
    dims: Dims = [[[] for _ in of] for of in shapes]
    for kind, places in ways:
        sizes = {shapes[tensor][dim] for tensor, dim in places if nodes[tensor] is not None}
        if len(sizes) == 1 and sizes != {1}:
            factors.append((sizes.pop(), kind))
            for tensor, dim in places:
                if nodes[tensor] is not None:
                    dims[tensor][dim] = [len(factors) - 1]
    if not factors:
        return None
    for of_dims, sizes_of in zip(dims, shapes, strict=True):
        for dim, size in enumerate(sizes_of):
            if size > 1 and not of_dims[dim]:
                of_dims[dim] = [len(factors)]
                factors.append((size, "replicate"))
    count = len(operation.results)
    return elementwise, factors, dims[count:], dims[:count]


def _is_one_by_chance(node: fx.Node, shape: Sequence[int]) -> bool:
    """Whether a size that varies was 1 in the example, where it may have been broadcast."""
    return any(size_hint(hint) == 1 != size for hint, size in zip(node.meta["val"].shape, shape, strict=True))


def _example(node: fx.Node, called: torch._ops.OpOverload) -> list[Any] | None:
    """The arguments of a call by position, of the example's sizes; None if they cannot be given so."""
    given: list[Any] = []
    for index, argument in enumerate(called._schema.arguments):
        is_given = index < len(node.args) or argument.name in node.kwargs
        if argument.kwarg_only and is_given:
            return None
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        given.append(fx.map_arg(value, _example_of))
    if any(value is NotImplemented for argument in given for value in _listed(argument)):
        return None
    return given[: sum(not argument.kwarg_only for argument in called._schema.arguments)]


def _example_of(node: fx.Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(
            [size_hint(size) for size in value.shape],
            [size_hint(stride) for stride in value.stride()],
            dtype=value.dtype,
            device=value.device,
        )
    return size_hint(value) if isinstance(value, int | torch.SymInt) else NotImplemented


class _Call:
    """A call on fake tensors."""

    def __init__(
        self,
        called: torch._ops.OpOverload,
        arguments: list[Any],
        operation: Operation,
        mode: contextlib.AbstractContextManager[object],
    ) -> None:
        self.called, self.arguments, self._mode = called, arguments, mode
        self.operands = [one for argument in arguments for one in _listed(argument) if isinstance(one, torch.Tensor)]
        self.given = [index for index, node in enumerate(operation.operands) if node is not None]
        self.results: list[Any] = []
        self.numbers = len(operation.results)

    def ways(self) -> Iterator[Way]:
        """Those of DTensor's that are factors of merak's."""
        if len(self.given) != len(self.operands) or (results := self._call(self.operands)) is None:
            return
        self.results = results
        for way in strategies_of_dtensor(self.called, self.arguments):
            of_results, of_operands = way[: -len(self.operands)], way[-len(self.operands) :]
            if len(of_results) == 1:
                of_results = of_results * self.numbers
            divided = [isinstance(one, int) for one in of_results]
            kind = "pass" if all(divided) else "reduce" if all(one == "sum" for one in of_results) else ""
            if not kind or len(of_results) != self.numbers or not {"sum", "other"}.isdisjoint(of_operands):
                continue
            places = [(index, one) for index, one in enumerate(of_results)]
            places += [(self.numbers + self.given[index], one) for index, one in enumerate(of_operands)]
            dims = frozenset((tensor, dim) for tensor, dim in places if isinstance(dim, int))
            if any(tensor >= self.numbers for tensor, _ in dims) and len({self._size(one) for one in dims}) == 1:
                yield kind, dims

    def gives_parts(self, way: Way) -> bool:
        """Whether the operation of parts of its operands gives parts of its results; of nothing too, which is what the
        last ranks may have."""
        _, places = way
        size = self._size(next(iter(places)))
        for length in (chunk_of(size, 2, 0), chunk_of(size, 2, 1), 0):
            operands = [
                self._part(one, self.numbers + self.given[index], places, length)
                for index, one in enumerate(self.operands)
            ]
            expected = [self._part(one, index, places, length) for index, one in enumerate(self.results)]
            found = self._call(operands)
            if found is None or [one.shape for one in found] != [one.shape for one in expected]:
                return False
        return size > 1

    def _part(self, tensor: torch.Tensor, number: int, places: frozenset[Place], length: int) -> torch.Tensor:
        """With so many of each dimension that is divided."""
        shape = [length if (number, dim) in places else size for dim, size in enumerate(tensor.shape)]
        with self._mode:
            return tensor.new_empty(shape)

    def _size(self, place: Place) -> int:
        tensor, dim = place
        of = self.results[tensor] if tensor < self.numbers else self.operands[self.given.index(tensor - self.numbers)]
        return int(of.shape[dim])

    def _call(self, operands: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
        """Its results, if they are tensors, as many as there are to be."""
        remaining = iter(operands)

        def replaced(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return [replaced(one) for one in value]
            return next(remaining) if isinstance(value, torch.Tensor) else value

        try:
            with self._mode, trying_fakes():
                made = self.called(*map(replaced, self.arguments))
        except Exception:  # an operation may raise anything on parts that it cannot take, and has no parts then
            return None
        results = list(_listed(made))
        are_tensors = all(isinstance(one, torch.Tensor) for one in results)
        return results if are_tensors and len(results) == self.numbers else None


def _compatible(ways: Iterator[Way]) -> list[Way]:
    """Those that share no dimension with another."""
    different = list(dict.fromkeys(ways))
    return [way for way in different if all(way is other or way[1].isdisjoint(other[1]) for other in different)]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
