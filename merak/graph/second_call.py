"""Whether a model's second call computes what its first does, although the first has changed attributes of modules.

Both are exported in one graph. Two results are the same if they are the same operations of the same things, down to
inputs, parameters and buffers: a cache that the first call has made is, for the second, what it is for the first. And
both must write the same to what they write to in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from merak._torch_graphs import ExportedGraph, memory_of
from merak.graph.attributes import Attributes
from merak.graph.buffers import Buffers
from merak.graph.functions import FunctionCall
from merak.graph.randomness import operation_of, region_of

_NO_DATA = ("new_", "zeros_like", "ones_like", "empty_like", "full_like")


class TwoCalls(nn.Module):
    """A model's outputs and buffers after a call, a mark, and again after a second call.

    Args:
        call: the model as a function of tensors; and with it what else it gives.
    """

    # Not there before `forward`: torch.export puts attributes back that were.
    _length: int
    _rest: tuple[str, str]

    def __init__(
        self, model: nn.Module, call: Callable[[list[torch.Tensor]], tuple[list[torch.Tensor], list[Any]]]
    ) -> None:
        super().__init__()
        self.model = model
        self._call = call

    def forward(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """What it is exported as."""
        attributes, buffers = Attributes(self.model), Buffers(self.model)
        first, rest = self._once(tensors, buffers)
        mark = torch.zeros(())
        second, rest_of_second = self._once(tensors, buffers)
        attributes.put_back()  # before torch.export finds and warns of it
        self._length, self._rest = len(first), (repr(rest), repr(rest_of_second))
        return [*first, mark, *second]

    def _once(self, tensors: list[torch.Tensor], buffers: Buffers) -> tuple[list[torch.Tensor], list[Any]]:
        buffers.clone()
        results, rest = self._call(tensors)
        results = [*results, *buffers.values()]
        buffers.put_back()
        return results, rest

    def are_same(self, exported: ExportedGraph) -> bool:
        """Whether both calls compute the same, by their export."""
        expressions = _Expressions(exported)
        results: Any = exported.graph.output_node().args[0]
        digests = [expressions.of[one] if isinstance(one, fx.Node) else repr(one) for one in results]
        first, second = digests[: self._length], digests[self._length + 1 :]
        mark = results[self._length]
        return first == second and self._rest[0] == self._rest[1] and expressions.write_same_around(mark)


class _Expressions:
    """By node of a graph: a digest of all that it is made of."""

    def __init__(self, exported: ExportedGraph) -> None:
        self._exported = exported
        self.of: dict[fx.Node, str] = {}
        self._data: set[fx.Node] = set()
        for node in exported.graph.nodes:
            if node.op == "placeholder":
                self.of[node] = self._of_input(node)
            elif node.op != "output":
                self.of[node] = self._of(node)
            if self._holds_data(node):
                self._data.add(node)

    def write_same_around(self, mark: fx.Node) -> bool:
        """Whether what is written in place before a node, to values that depend on data, is the same as behind it."""
        written: tuple[list[str], list[str]] = [], []
        behind = False
        for node in self._exported.graph.nodes:
            behind = behind or node is mark
            operation = operation_of(node)
            if operation is not None and operation._schema.is_mutable and node in self._data:
                written[behind].append(self.of[node])
        return written[0] == written[1]

    def _holds_data(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return self._exported.placeholders[node][0] != "constant"
        name = str(getattr(node.target, "__name__", node.target))
        numbers = isinstance(node.meta.get("val"), int | float | torch.SymInt | torch.SymFloat | torch.SymBool)
        return not numbers and not name.startswith(_NO_DATA) and not self._data.isdisjoint(node.all_input_nodes)

    def _of_input(self, node: fx.Node) -> str:
        kind, target = self._exported.placeholders[node]
        if kind == "constant":
            value = self._exported.constants[target]
            return _digest(kind, value.dtype, tuple(value.shape), target if value.is_meta else value.tolist())
        return _digest(kind, target, node.name if kind == "input" else "")

    def _of(self, node: fx.Node) -> str:
        if (region := region_of(node)) is not None:
            return _of_region(region)
        source = node.args[0] if node.args else None
        if node.target is torch.ops.aten.clone.default and isinstance(source, fx.Node) and self._is_buffer(source):
            return self.of[source]
        return _of_call(node, self.of)

    def _is_buffer(self, node: fx.Node) -> bool:
        return self._exported.placeholders.get(node, ("", ""))[0] == "buffer"


def _of_call(node: fx.Node, known: dict[fx.Node, str]) -> str:
    if _gives_its_argument(node):
        return known[node.args[0]]  # type: ignore[index]
    target: Any = getattr(node.target, "operation", node.target)
    if isinstance(target, FunctionCall):
        target = (target.function, target.fixed)
    return _digest(target, fx.map_arg((node.args, dict(node.kwargs)), lambda one: _Name(known[one])))


def _gives_its_argument(node: fx.Node) -> bool:
    """As `to` does where there is nothing to change: to torch.export the argument is its result from then on."""
    operation, source = operation_of(node), node.args[0] if node.args else None
    if operation is None or operation._schema.is_mutable or "detach" in operation._schema.name:
        return False
    new, old = node.meta.get("val"), source.meta.get("val") if isinstance(source, fx.Node) else None
    if not isinstance(new, torch.Tensor) or not isinstance(old, torch.Tensor) or memory_of(new) != memory_of(old):
        return False
    return _form(new) == _form(old)


def _form(tensor: torch.Tensor) -> str:
    return repr((tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()))


def _of_region(region: fx.GraphModule) -> str:
    known: dict[fx.Node, str] = {}
    for number, node in enumerate(region.graph.nodes):
        if node.op == "placeholder":
            known[node] = f"argument {number}"
        elif (inner := region_of(node)) is not None:
            known[node] = _of_region(inner)
        else:
            known[node] = _of_call(node, known)
    return _digest(*known.values())


class _Name(str):
    """A digest in place of a node, in arguments."""

    __slots__ = ()


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
