"""From a completed sharding to the graph of one rank: its parts of all tensors, and every collective written out.

The graph computes what the whole one does. Each value is there as this rank has it, by the value's layout; where an
operation needs it otherwise there are the steps in between, once for all operations that need the same (so queries,
keys and values share one sum in the backward). Sizes in the arguments of operations become those of the rank's parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from merak.graph.capture import Captured
from merak.sharding import collectives
from merak.sharding.collectives import chunk_of
from merak.sharding.completion import Completion
from merak.sharding.local_calls import LocalCall, local_call
from merak.sharding.parts import Place, is_divided
from merak.sharding.program import Layout, Operation, Pieces
from merak.sharding.sizes import Size, SizeNodes

_STEPS = {
    "all_reduce": collectives.all_reduce,
    "vary": collectives.vary,
    "reduce_scatter": collectives.reduce_scatter,
    "all_gather": collectives.all_gather,
    "slice": collectives.slice_own,
}


@dataclasses.dataclass(frozen=True)
class Lowered:
    """The graph of one rank.

    Attributes:
        captured: with the graph; its parameters and buffers are this rank's parts.
        layouts: of parameters and buffers by name.
        outputs: of the model's outputs by number, those that are divided, with their layouts.
        places: this rank's, by axis.
        partial: names of parameters of whose gradients each rank has a part, to be added up.
    """

    captured: Captured
    layouts: dict[str, Layout]
    outputs: dict[int, Layout]
    places: tuple[Place, ...]
    partial: frozenset[str] = frozenset()


def lower(completion: Completion, places: Sequence[Place], *, sums_at_end: bool = False) -> Lowered:
    """The graph of the rank at these places, one for each axis of the mesh in its order.

    Args:
        sums_at_end: the graph leaves it to its caller to add up gradients of whole parameters of which ranks have
            parts, so that they travel once a step and not with every micro-batch; `Lowered.partial` names them.
    """
    return _Lowering(completion, tuple(places), sums_at_end).run()


class _Lowering:
    def __init__(self, completion: Completion, places: tuple[Place, ...], sums_at_end: bool) -> None:
        self.completion, self.places = completion, places
        self.source = completion.graph
        self.graph = fx.Graph(self.source.captured.graph.owning_module)
        self.values: dict[fx.Node, Any] = {}
        self.laid_out: dict[tuple[fx.Node, str], fx.Node] = {}
        self.sizes = SizeNodes(self.graph, self.source.captured, self.values)
        self.sizes.know(self.source.formulas)
        self.operations = {operation.node: index for index, operation in enumerate(self.source.operations)}
        self.partial = self._only_varied() if sums_at_end else set()

    def run(self) -> Lowered:
        captured = self.source.captured
        for node in captured.graph.nodes:
            if node in self.operations:
                self._lower(self.source.operations[self.operations[node]], self.completion.ways[self.operations[node]])
            elif node.op == "output":
                outputs = list(node.args[0])
                self.graph.output([fx.map_arg(one, self.values.__getitem__) for one in outputs])
            elif node not in self.values:
                self._copy(node)
        layouts = {
            source.key: self.completion.layouts[node]
            for node in captured.graph.find_nodes(op="placeholder")
            if (source := captured.sources[node.name]).kind in ("parameter", "buffer")
        }
        divided = {
            number: self.completion.layouts[node]
            for number, node in enumerate(outputs)
            if isinstance(node, fx.Node) and is_divided(self.completion.layouts.get(node, []))
        }
        partial = frozenset(captured.sources[node.name].key for node in self.partial)
        return Lowered(dataclasses.replace(captured, graph=self.graph), layouts, divided, self.places, partial)

    def _only_varied(self) -> set[fx.Node]:
        """The parameters that operations take as they are, and all of them to compute parts with."""
        steps_of: dict[fx.Node, list[list[str]]] = {}
        for operation, way in zip(self.source.operations, self.completion.ways, strict=True):
            for node, steps in zip(operation.operands, way["before"], strict=True):
                if node is not None and self.source.is_parameter(node):
                    steps_of.setdefault(node, []).append([step["kind"] for step in steps])
        return {node for node, uses in steps_of.items() if all(kinds == ["vary"] for kinds in uses)}

    def _copy(self, node: fx.Node) -> None:
        """What is not divided: placeholders, sizes, and what the batch alone determines."""
        if isinstance(node.meta.get("val"), torch.SymInt):
            self.values[node] = self.sizes.of(node.meta["val"])
        else:
            self.values[node] = self.graph.node_copy(node, self.values.__getitem__)

    def _lower(self, operation: Operation, way: dict[str, Any]) -> None:
        operands = [
            None if node is None else self._laid_out(node, steps)
            for node, steps in zip(operation.operands, way["before"], strict=True)
        ]
        call = local_call(self, operation, way, operands)
        made = self._call(operation, call)
        if operation.results != (operation.node,):
            self.values[operation.node] = made
        for number, (node, steps) in enumerate(zip(operation.results, way["after"], strict=True)):
            if node is None:
                continue
            value = made if node is operation.node else self._item(made, node)
            for step in steps:
                value = self._step(value, step)
            if call.added is not None and number == 0:
                value = self._like(node, call.added, value)
            self.values[node] = value

    def _call(self, operation: Operation, call: LocalCall) -> fx.Node:
        made = self.graph.create_node(
            "call_function", call.target, call.args, dict(call.kwargs), name=operation.node.name
        )
        made.meta.update(operation.node.meta)
        return made

    def _item(self, made: fx.Node, node: fx.Node) -> fx.Node:
        item = self.graph.create_node("call_function", node.target, (made, node.args[1]), name=node.name)
        item.meta.update(node.meta)
        return item

    def _like(self, node: fx.Node, call: LocalCall, value: fx.Node) -> fx.Node:
        added = self.graph.create_node("call_function", call.target, (value, *call.args), dict(call.kwargs))
        added.meta.update(node.meta)
        return added

    def _laid_out(self, node: fx.Node, steps: Sequence[dict[str, Any]]) -> fx.Node:
        """A value after these steps; what several operations need is made once."""
        value: fx.Node = self.values[node]
        if node in self.partial:
            return value
        for count, step in enumerate(steps, 1):
            key = (node, repr(steps[:count]))
            if key not in self.laid_out:
                self.laid_out[key] = self._step(value, step)
            value = self.laid_out[key]
        return value

    def _step(self, value: fx.Node, step: dict[str, Any]) -> fx.Node:
        kind, (axis,) = step["kind"], step["axes"]
        group = self.places[axis].group
        if kind in ("all_reduce", "vary"):
            arguments: tuple[Any, ...] = ()
        elif kind == "all_to_all":
            whole = self._cut(step["dim"], step["pieces"], step["piece"], axis)
            part = self._cut(step["to_dim"], step["to_pieces"], step["to_piece"], axis)
            return self._new(value, collectives.all_to_all, (group, whole, part))
        else:
            arguments = self._cut(step["dim"], step["pieces"], step["piece"], axis)
        target = _STEPS[kind]
        if kind == "all_gather" and step["varies"]:
            target = collectives.all_gather_vary
        return self._new(value, target, (group, *arguments))

    def _new(self, value: fx.Node, target: Any, arguments: tuple[Any, ...]) -> fx.Node:
        new = self.graph.call_function(target, (value, *arguments))
        new.meta.update({key: one for key, one in value.meta.items() if key in ("nn_module_stack", "stack_trace")})
        return new

    def _cut(self, dim: int, pieces: Pieces, number: int, axis: int) -> tuple[Any, ...]:
        """As `collectives.Cut`: as this rank has it, but for `axis`, the last of the piece."""
        size, axes = pieces[number]
        assert axes[-1] == axis
        outer, inner = self.local_size(pieces[:number]), self.local_size(pieces[number + 1 :])
        place = self.places[axis]
        return dim, outer, self._chunk(self.sizes.stand_for(size), axes[:-1]), inner, place.ranks, place.rank

    def local_size(self, pieces: Pieces) -> Size:
        """How much this rank has of a dimension, or of some of its pieces."""
        return self.sizes.product([self._chunk(self.sizes.stand_for(size), axes) for size, axes in pieces])

    def _chunk(self, size: Size, axes: Sequence[int]) -> Size:
        for axis in axes:
            place = self.places[axis]
            if isinstance(size, int):
                size = chunk_of(size, place.ranks, place.rank)
            else:
                size = self.graph.call_function(chunk_of, (size, place.ranks, place.rank))
        return size

    def whole_size(self, size: int) -> Size:
        """A size that C++ knows by its stand-in."""
        return self.sizes.stand_for(size)
