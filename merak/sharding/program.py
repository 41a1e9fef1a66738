"""A captured graph as the C++ core sees it: values with shapes, and operations with the rules of what they call.

The core knows numbers only. Where a dimension depends on the batch its size is a formula, and stands for it with a
stand-in: the value of the formula where each symbol is a large prime of its own. So reshapes are still recognised by
products of sizes, no two sizes are equal by chance, and nothing counts on a division without remainder. Bytes are those
of the example.

What the batch alone determines is *free*: every rank makes it whole, and takes of it what it needs.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import fx

from merak import _C
from merak._torch_graphs import equal_sizes, evaluate_size, size_hint, symbol_names
from merak.graph.capture import Captured
from merak.graph.errors import CaptureError
from merak.graph.experts import Experts
from merak.graph.gradients import nodes_with_gradients
from merak.graph.prepare import Prepared
from merak.graph.randomness import operation_of
from merak.sharding.dtensor_rules import Rule, rule_of_dtensor
from merak.sharding.sub_axes import meant, parse
from merak.sharding.writers import out_of_place, split_writers

_STAND_INS = (100003, 100019, 100043, 100049, 100057, 100069, 100103, 100109, 100129, 100151)

Axes = Sequence[int]
Pieces = list[tuple[int, list[int]]]
"""How a dimension lies on a mesh: (size, axes), major to minor."""
Layout = list[Pieces]


@dataclass(frozen=True)
class Operation:
    """An operation whose tensors may be divided.

    Attributes:
        name: what it calls, such as "linear"; the same for an operation in place.
        operands: tensors in the order of its schema, lists flattened; None for one that was not given.
        results: itself, or, where it makes a list, whatever takes an item.
    """

    node: fx.Node
    name: str
    operands: tuple[fx.Node | None, ...]
    results: tuple[fx.Node | None, ...]
    arguments: dict[str, list[int]]


class ShardableGraph:
    """The values and operations of a captured graph.

    Args:
        prepared: a model's graph.
        mesh: sizes of the axes by name; perhaps a refined one (`merak.sharding.sub_axes`).
        trainable: names of parameters that get gradients; all by default.

    Raises:
        ValueError: the mesh is none.

    Attributes:
        values: all tensors, in order.
        operations: all that compute what does not depend on the batch alone.
        out_of_place: operations in place whose result may as well be a new tensor.
        of_dtensor: by number, the rules of operations for which only DTensor has one.
        program: all of it, for C++.
    """

    def __init__(self, prepared: Prepared, mesh: Mapping[str, int], trainable: set[str] | None = None) -> None:
        self.prepared, self.mesh = prepared, checked_mesh(mesh)
        self.captured: Captured = prepared.captured
        self.stand_ins = _stand_ins(self.captured)
        self._trainable = trainable
        self._varying: set[int] = set()
        free = prepared.cuttable.of_inputs
        self.values = [node for node in self.captured.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
        self.number = {node: number for number, node in enumerate(self.values)}
        self.free = free
        self.out_of_place, self.whole = split_writers(self.captured, prepared.cuttable.groups, free)
        self.operations = [
            operation
            for node in self.captured.graph.nodes
            if node not in free and (operation := self._operation(node)) is not None
        ]
        self.of_dtensor = dict(self._rules_of_dtensor())
        self.program = _C.ShardingProgram(
            list(self.mesh.items()),
            self._value_tuples(),
            self._operation_tuples(),
            self.of_dtensor,
            self._varying | {number for number, size in self.formulas.items() if symbol_names(size)},
        )

    def shape(self, node: fx.Node) -> list[int]:
        """With stand-ins."""
        return [evaluate_size(size, self.stand_ins) for size in node.meta["val"].shape]

    def shape_text(self, node: fx.Node) -> str:
        """Such as `(64 x 16)`, as in the example."""
        return f"({' x '.join(str(size_hint(size)) for size in node.meta['val'].shape)})"

    def over(self, mesh: Mapping[str, int]) -> ShardableGraph:
        """The same graph over another mesh."""
        return ShardableGraph(self.prepared, mesh, self._trainable)

    def axes(self, name: str) -> list[int]:
        """The numbers of the axes that a name stands for: several, where parts of an axis have numbers of their own.

        Raises:
            ValueError: the mesh has none of that name.
        """
        if not (found := meant(self.mesh, name)):
            raise ValueError(f"the mesh has no axis {name!r}: it has {', '.join(map(repr, self.mesh))}")
        return found

    def axis(self, name: str) -> int:
        """The number of an axis, or of the one that a name means a part of.

        Raises:
            ValueError: the mesh has none of that name.
        """
        part = None if name in self.mesh else parse(name)
        return self.axes(name if part is None else part.axis)[0]

    def ranks(self, name: str) -> int:
        """How many there are along an axis, or along a part of one."""
        part = None if name in self.mesh else parse(name)
        return self.mesh[name] if part is None else part.size

    @cached_property
    def formulas(self) -> dict[int, Any]:
        """From stand-ins to the sizes that they stand for."""
        sizes = [size for node in self.values for size in node.meta["val"].shape]
        return {evaluate_size(size, self.stand_ins): size for size in sizes if not isinstance(size, int)}

    @cached_property
    def rows(self) -> set[int]:
        """Stand-ins of the batch's number of rows."""
        return {self.stand_ins[name] for name in self.captured.row_symbols}

    def is_of_rows(self, node: fx.Node, dim: int) -> bool:
        """Whether a dimension has the rows of the batch, perhaps some of each."""
        return any(self.shape(node)[dim] % rows == 0 for rows in self.rows)

    def results_of_rows(self) -> Iterator[tuple[fx.Node, int]]:
        """Dimensions of results that, divided, have all be computed by rows of the batch.

        These are of what is computed from the batch, as far as they begin with its rows, and of batch norms in
        training: their statistics need all rows, but a rank that then keeps its own does nothing twice behind them.
        """
        for number, operation in enumerate(self.operations):
            factors, operands, results = self.rule(number)
            of_rows = {
                factor
                for node, dims in zip(operation.operands, operands, strict=True)
                if node in self.free and node in self.number
                for dim, of_dim in enumerate(dims)
                for factor in of_dim
                if self.is_of_rows(node, dim)
            }
            if operation.name == "batch_norm" and (node := operation.results[0]) is not None:
                of_rows |= {
                    one for one in results[0][0][:1] if factors[one][1] == "replicate" and self.is_of_rows(node, 0)
                }
            for node, dims in zip(operation.results, results, strict=True):
                if node is not None:
                    yield from ((node, dim) for dim, of_dim in enumerate(dims) if of_rows.intersection(of_dim[:1]))

    def rule(self, number: int) -> tuple[list[tuple[int, str]], list[list[list[int]]], list[list[list[int]]]]:
        """Of an operation: its factors (size, kind), and which of them each dimension has, of operands and results."""
        return self.program.rule(number)

    def _operation(self, node: fx.Node) -> Operation | None:
        results = _results(node)
        if node.op != "call_function" or not any(result in self.number for result in results):
            return None
        called = operation_of(node)
        if called is None:
            known = tuple(one for one in node.all_input_nodes if one in self.number)
            if isinstance(node.target, Experts):
                experts = {"experts": [node.target.experts], "of_experts": list(node.target.of_experts)}
                return Operation(node, "experts", node.args, results, experts)  # type: ignore[arg-type]
            return None if node.target is operator.getitem else Operation(node, _called(node), known, results, {})
        operands: list[fx.Node | None] = []
        arguments: dict[str, list[int]] = {}
        for argument, value in _arguments(node, called):
            kind = str(argument.type)
            if "Tensor" in kind:
                operands += [one if isinstance(one, fx.Node) else None for one in _listed(value)]
            elif isinstance(value, str):
                arguments[f"{argument.name}={value}"] = [1]
            elif (numbers := self._numbers(value)) is not None:
                arguments[argument.name] = numbers
        return Operation(node, self._name(node, called), tuple(operands), results, arguments)

    def _name(self, node: fx.Node, called: torch._ops.OpOverload) -> str:
        name = called._schema.name.removeprefix("aten::")
        if not called._schema.is_mutable or name.endswith("__"):
            return name
        return name.rstrip("_") if node in self.out_of_place else called._schema.name  # of which there is no rule

    def _rules_of_dtensor(self) -> Iterator[tuple[int, Rule]]:
        known = set(_C.sharding_rules())
        for number, operation in enumerate(self.operations):
            called = operation_of(operation.node)
            if called is None or operation.name in known:
                continue
            if operation.node in self.out_of_place:
                called = out_of_place(called)
            rule = rule_of_dtensor(called, operation, self.shape)
            if rule is not None:
                yield number, rule

    def _numbers(self, value: Any) -> list[int] | None:
        numbers = []
        for one in _listed(value):
            size = one.meta.get("val") if isinstance(one, fx.Node) else one
            if isinstance(size, float) and size.is_integer():
                size = int(size)
            if not isinstance(size, int | torch.SymInt):
                return None
            numbers.append(_bounded(evaluate_size(size, self.stand_ins)))
            if not isinstance(size, int) and symbol_names(size):
                self._varying.add(numbers[-1])
        return numbers

    def _value_tuples(self) -> list[tuple[str, list[int], float, bool, bool, bool, bool]]:
        gradients = nodes_with_gradients(self.captured, self._trainable)
        return [
            (
                node.name,
                self.shape(node),
                nbytes_of(node),
                node in gradients,
                self.is_parameter(node),
                node in self.free,
                node in self.whole,
            )
            for node in self.values
        ]

    def name(self, node: fx.Node) -> str:
        """What annotations call a tensor."""
        return self.captured.sources[node.name].key if node.op == "placeholder" else node.name

    def in_names(self, text: str) -> str:
        """A message of C++'s, with what annotations call the tensors for the names of nodes."""
        named = {node.name: self.name(node) for node in self.values}
        return re.sub(r"(?<= of )\w+", lambda match: named.get(match[0], match[0]), text)

    @cached_property
    def by_name(self) -> dict[str, list[fx.Node]]:
        """Tensors by what annotations call them."""
        found: dict[str, list[fx.Node]] = {}
        for node in self.values:
            found.setdefault(self.name(node), []).append(node)
        return found

    @cached_property
    def by_module(self) -> dict[str, list[fx.Node]]:
        """By module: what its last operation makes."""
        found: dict[str, list[fx.Node]] = {}
        for operation in self.operations:
            if (result := operation.results[-1]) is not None:
                for path, _ in (operation.node.meta.get("nn_module_stack") or {}).values():
                    found[str(path).removeprefix("model.")] = [result]
        return found

    def is_parameter(self, node: fx.Node) -> bool:
        """Whether a node stands for a parameter."""
        return node.op == "placeholder" and self.captured.sources[node.name].kind == "parameter"

    def is_input(self, node: fx.Node) -> bool:
        """Whether a node stands for a tensor of the batch."""
        return node.op == "placeholder" and self.captured.sources[node.name].kind == "input"

    def _operation_tuples(self) -> list[tuple[str, str, list[int], list[int], dict[str, list[int]]]]:
        return [
            (
                operation.node.name,
                operation.name,
                [self.number.get(one, -1) if one is not None else -1 for one in operation.operands],
                [self.number.get(one, -1) if one is not None else -1 for one in operation.results],
                operation.arguments,
            )
            for operation in self.operations
        ]


def checked_mesh(mesh: Mapping[str, int]) -> dict[str, int]:
    """A mesh, as given.

    Raises:
        ValueError: it is none: sizes by name, each 1 or more.
    """
    if not isinstance(mesh, Mapping) or not mesh or not all(isinstance(name, str) for name in mesh):
        raise ValueError(f"mesh is {mesh!r}; it must have sizes of axes by name, such as {{'dp': 2, 'tp': 4}}")
    for name, size in mesh.items():
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"mesh: axis {name!r} has size {size!r}; it must be 1 or more, a whole number")
    return dict(mesh)


def _stand_ins(captured: Captured) -> dict[str, int]:
    """By symbol. Symbols that are equal have one: those that the model asks to be, in the same dimension of inputs and
    of the same size in the example (it may have asked it of their products)."""
    places: dict[str, tuple[int, int]] = {}
    for fake in captured.inputs.values():
        for dim, size in enumerate(fake.shape):
            if not isinstance(size, int):
                places.setdefault(str(size), (dim, size_hint(size)))
    first = {name: name for name in places}
    for left, right in equal_sizes(captured.conditions):
        for one, other in itertools.product(left & places.keys(), right & places.keys()):
            if places[one] == places[other]:
                first = {name: first[one] if of == first[other] else of for name, of in first.items()}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(first.values()))}
    if len(numbers) > len(_STAND_INS):
        raise CaptureError(f"the batch's shapes have {len(numbers)} sizes that vary; at most {len(_STAND_INS)} may")
    return {name: _STAND_INS[numbers[of]] for name, of in first.items()}


def _results(node: fx.Node) -> tuple[fx.Node | None, ...]:
    """The node, or the takers of what it makes, by number."""
    value = node.meta.get("val")
    if not isinstance(value, list | tuple):
        return (node,)
    takers = {user.args[1]: user for user in node.users if user.target is operator.getitem}
    return tuple(takers.get(index) for index in range(len(value)))


def _arguments(node: fx.Node, called: torch._ops.OpOverload) -> Iterator[tuple[Any, Any]]:
    for index, argument in enumerate(called._schema.arguments):
        given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        yield argument, given


def _called(node: fx.Node) -> str:
    """What a node calls that is no operation of PyTorch's: an autograd.Function, a region under autocast."""
    return str(getattr(node.target, "__name__", node.target))


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _bounded(number: int) -> int:
    """Within what C++ takes: Python's "to the end" is more."""
    return max(-(2**63), min(number, 2**63 - 1))


def nbytes_of(node: fx.Node) -> float:
    """Of a tensor of the whole graph, for the example."""
    count = 1
    for size in node.meta["val"].shape:
        count *= size_hint(size)
    return float(count * node.meta["val"].element_size())
