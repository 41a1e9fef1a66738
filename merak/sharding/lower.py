"""From a completed sharding to the graph of one rank: its parts of all tensors, and every collective written out.

The graph computes what the whole one does. Each value is there as this rank has it, by the value's layout; where an
operation needs it otherwise there are the steps in between, once for all operations that need the same (so queries,
keys and values share one sum in the backward). Sizes in the arguments of operations become those of the rank's parts.

A node knows in `meta["operation"]` for the sake of which operation of the whole graph it is there, by name; one that
has a value of the whole graph knows in `meta["common"]` that value's name. So a cut of the whole graph is one of this
graph too, and what crosses it is known on ranks with other parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from merak.graph.capture import Captured
from merak.sharding import borders, collectives, in_time, overlapped
from merak.sharding.completion import Completion
from merak.sharding.local_calls import LocalCall, local_call
from merak.sharding.parts import Place, is_divided
from merak.sharding.program import Layout, Operation, Pieces
from merak.sharding.sizes import Size, SizeNodes

_NAMES = {"slice": "slice_own"}
"""Of steps that are called otherwise in `collectives`."""


@dataclasses.dataclass(frozen=True)
class Lowered:
    """The graph of one rank.

    Attributes:
        captured: with the graph; its parameters and buffers are this rank's parts.
        layouts: of parameters and buffers by name.
        outputs: of the model's outputs by number, those that are divided, with their layouts.
        values: of all values by their common names, those that are divided, with their layouts.
        places: this rank's, by axis.
        partial: names of parameters of whose gradients each rank has a part, to be added up.
    """

    captured: Captured
    layouts: dict[str, Layout]
    outputs: dict[int, Layout]
    values: dict[str, Layout]
    places: tuple[Place, ...]
    partial: frozenset[str] = frozenset()


def lower(
    completion: Completion,
    places: Sequence[Place],
    *,
    sums_at_end: bool = False,
    time_axis: str | None = None,
    stage_of: Callable[[fx.Node], int] = lambda _: 0,
    whole_axes: Mapping[tuple[int, ...], str] | None = None,
) -> Lowered:
    """The graph of the rank at these places, one for each axis of the mesh in its order.

    Args:
        sums_at_end: the graph leaves it to its caller to add up gradients of whole parameters of which ranks have
            parts, so that they travel once a step and not with every micro-batch; `Lowered.partial` names them.
        time_axis: an axis that is no axis of ranks. This rank computes all of its parts, one after the other, in nodes
            whose `meta["part"]` says which, and steps between ranks are in two halves (`overlapped`).
        stage_of: where operations will be. Steps are made in each stage that needs them, so that nothing but values of
            the whole graph crosses stages.
        whole_axes: where the mesh is refined, the groups of whole axes, by the numbers of their parts. What goes over
            all of them goes over the axis at once; what is not there goes part by part.
    """
    assert len(places) == len(completion.graph.mesh), "a place for each axis of the mesh, which may be a refined one"
    return _Lowering(completion, tuple(places), sums_at_end, time_axis, stage_of, whole_axes or {}).run()


class _Lowering:
    """The new graph in the making. A value has a node for each part in time: often the same one."""

    def __init__(
        self,
        completion: Completion,
        places: tuple[Place, ...],
        sums_at_end: bool,
        time_axis: str | None,
        stage_of: Callable[[fx.Node], int],
        whole_axes: Mapping[tuple[int, ...], str],
    ) -> None:
        self.completion, self.source = completion, completion.graph
        self._stage_of, self._stage, self._operation = stage_of, 0, ""
        self._whole_axes = whole_axes
        mesh = self.source.mesh
        self._in_time = None if time_axis is None else self.source.axis(time_axis)
        parts = 1 if time_axis is None else mesh[time_axis]
        self._parts = [
            tuple(Place(part, parts, "") if axis == self._in_time else place for axis, place in enumerate(places))
            for part in range(parts)
        ]
        self._part = 0
        self.graph = fx.Graph(self.source.captured.graph.owning_module)
        self._values: list[dict[fx.Node, Any]] = [{} for _ in self._parts]
        self._laid_out_already: dict[tuple[fx.Node, str, int], list[fx.Node]] = {}
        self.sizes = SizeNodes(self.graph, self.source.captured, self._values[0])
        self.sizes.know(self.source.formulas)
        self.operations = {operation.node: index for index, operation in enumerate(self.source.operations)}
        self.partial = self._only_varied() if sums_at_end else set()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the part is that is being made."""
        return self._parts[self._part]

    @property
    def values(self) -> dict[fx.Node, Any]:
        """Nodes of that part, by nodes of the whole graph."""
        return self._values[self._part]

    def run(self) -> Lowered:
        """Makes the graph."""
        captured = self.source.captured
        for node in captured.graph.nodes:
            if node in self.operations:
                self._lower(self.source.operations[self.operations[node]], self.completion.ways[self.operations[node]])
            elif node.op == "output":
                outputs = list(node.args[0])
                self.graph.output([fx.map_arg(one, self._output) for one in outputs])
            elif node not in self.values:
                self._copy(node)
        divided_values = self._name_values()
        layouts = {
            source.key: self.completion.layouts[node]
            for node in captured.graph.find_nodes(op="placeholder")
            if (source := captured.sources[node.name]).kind in ("parameter", "buffer")
        }
        divided = {
            number: self._without_time(self.completion.layouts[node])
            for number, node in enumerate(outputs)
            if isinstance(node, fx.Node) and is_divided(self._without_time(self.completion.layouts.get(node, [])))
        }
        partial = frozenset(captured.sources[node.name].key for node in self.partial)
        return Lowered(
            dataclasses.replace(captured, graph=self.graph, more_sizes={}),
            layouts,
            divided,
            divided_values,
            self.places,
            partial,
        )

    def _only_varied(self) -> set[fx.Node]:
        """The parameters that operations take as they are, and all of them to compute parts with that other ranks have
        others of."""
        uses: dict[fx.Node, list[bool]] = {}
        all_ranks = {axis for axis in range(len(self.source.mesh)) if axis != self._in_time}
        for operation, way in zip(self.source.operations, self.completion.ways, strict=True):
            for node, steps in zip(operation.operands, way["before"], strict=True):
                if node is not None and self.source.is_parameter(node):
                    only_varied = all(step["kind"] == "vary" for step in steps)
                    between_ranks = {axis for step in steps for axis in step["axes"]} - {self._in_time}
                    uses.setdefault(node, []).append(only_varied and between_ranks == all_ranks)
        return {node for node, varied in uses.items() if all(varied)}

    def _copy(self, node: fx.Node) -> None:
        """What is not divided: placeholders, sizes, and what the batch alone determines."""
        if isinstance(node.meta.get("val"), torch.SymInt):
            made: Any = self.sizes.of(node.meta["val"])
        else:
            made = self.graph.node_copy(node, self.values.__getitem__)
        self._set(node, [made] * len(self._parts))

    def _set(self, node: fx.Node, made: Sequence[Any]) -> None:
        for values, one in zip(self._values, made, strict=True):
            values[node] = one

    def _in_parts(self, make: Callable[[int], fx.Node], together: bool) -> list[fx.Node]:
        """A node for each part, or one for all of them.

        Args:
            make: given the part's number; `places` and `values` are that part's meanwhile.
        """
        made = []
        for part in range(1 if together else len(self._parts)):
            self._part = part
            made.append(make(part))
            if not together and len(self._parts) > 1:
                made[-1].meta["part"] = part
        self._part = 0
        return made * len(self._parts) if together else made

    def _name_values(self) -> dict[str, Layout]:
        """Writes down which node has which value of the whole graph, in which part in time; the divided ones'
        layouts."""
        divided = {}
        for node in self.source.values:
            made = [of_part[node] for of_part in self._values]
            layout = self._without_time(self.completion.layouts[node])
            for part, one in enumerate(made[:1] if _is_one(made) else made):
                one.meta["common"] = node.name if _is_one(made) else f"{node.name}, part {part}"
                if is_divided(layout):
                    divided[one.meta["common"]] = layout
        return divided

    def _lower(self, operation: Operation, way: dict[str, Any]) -> None:
        self._operation, self._stage = operation.node.name, self._stage_of(operation.node)
        operands = [
            None if node is None else self._laid_out(node, steps)
            for node, steps in zip(operation.operands, way["before"], strict=True)
        ]
        together = self._in_time not in way["divided"] and all(map(_is_one, filter(None, operands)))
        calls: dict[int, LocalCall] = {}

        def make(part: int) -> fx.Node:
            calls[part] = local_call(self, operation, way, [one and one[part] for one in operands])
            return self._call(operation, calls[part])

        made = self._in_parts(make, together)
        if operation.results != (operation.node,):
            self._set(operation.node, made)
        for number, (node, steps) in enumerate(zip(operation.results, way["after"], strict=True)):
            if node is None:
                continue
            values = made if node is operation.node else self._items(made, node)
            for step in steps:
                values = self._step(values, step)
            if steps and node in self.source.whole:
                values = self._apart(values)
            if calls[0].added is not None and number == 0:
                values = self._added(node, calls, values)
            self._set(node, values)

    def _call(self, operation: Operation, call: LocalCall) -> fx.Node:
        made = self.graph.create_node(
            "call_function", call.target, call.args, dict(call.kwargs), name=operation.node.name
        )
        made.meta.update(operation.node.meta, operation=self._operation)
        return made

    def _items(self, made: Sequence[fx.Node], node: fx.Node) -> list[fx.Node]:
        def item(part: int) -> fx.Node:
            new = self.graph.create_node("call_function", node.target, (made[part], node.args[1]), name=node.name)
            new.meta.update(node.meta, operation=self._operation)
            return new

        return self._in_parts(item, _is_one(made))

    def _added(self, node: fx.Node, calls: Mapping[int, LocalCall], values: Sequence[fx.Node]) -> list[fx.Node]:
        """What is left of a call, once its sum is complete."""

        def add(part: int) -> fx.Node:
            call = calls.get(part, calls[0]).added
            new = self.graph.create_node("call_function", call.target, (values[part], *call.args), dict(call.kwargs))
            new.meta.update(node.meta, operation=self._operation)
            return new

        return self._in_parts(add, _is_one(values))

    def _laid_out(self, node: fx.Node, steps: Sequence[dict[str, Any]]) -> list[fx.Node]:
        """A value after these steps; what several operations need is made once."""
        values: list[fx.Node] = [of_part[node] for of_part in self._values]
        if node in self.partial:
            return values
        if node in self.source.whole and steps:  # it may be written to between two uses
            values = self._apart(values)
            for step in steps:
                values = self._step(values, step)
            return values
        for count, step in enumerate(steps, 1):
            key = (node, repr(steps[:count]), self._stage)
            if key not in self._laid_out_already:
                self._laid_out_already[key] = self._step(values, step)
            values = self._laid_out_already[key]
        return values

    def _apart(self, values: Sequence[fx.Node]) -> list[fx.Node]:
        """Copies, in memory that nothing else is written to."""
        return self._in_parts(lambda part: self._new(values[part], torch.ops.aten.clone.default, ()), _is_one(values))

    def _step(self, values: Sequence[fx.Node], step: dict[str, Any]) -> list[fx.Node]:
        if tuple(step["axes"]) == (self._in_time,):
            return self._step_in_time(values, step)
        together = _is_one(values)
        return self._in_parts(lambda part: self._step_of_ranks(values[part], step, whole=together), together)

    def _step_of_ranks(self, value: fx.Node, step: dict[str, Any], whole: bool) -> fx.Node:
        kind, axis = step["kind"], step["axes"][0]
        if kind == "once":
            return self._new(value, collectives.once, (all(self.places[one].rank == 0 for one in step["axes"]),))
        if len(step["axes"]) > 1:
            return self._sum_over_parts(value, step, whole)
        group = self.places[axis].group
        if kind in ("borders", "interval"):
            intervals = (step["dim"], self.places[axis].rank, tuple(step["have"]), tuple(step["need"]))
            return self._new(value, getattr(borders, kind), (group, *intervals))
        if kind in ("all_reduce", "vary"):
            arguments: tuple[Any, ...] = ()
        elif kind == "all_to_all":
            gathered = self._cut(step["dim"], step["pieces"], step["piece"], axis)
            divided = self._cut(step["to_dim"], step["to_pieces"], step["to_piece"], axis)
            return self._new(value, collectives.all_to_all, (group, gathered, divided))
        else:
            arguments = self._cut(step["dim"], step["pieces"], step["piece"], axis)
        name = "all_gather_vary" if kind == "all_gather" and step["varies"] else _NAMES.get(kind, kind)
        if whole or name not in overlapped.STEPS:
            return self._new(value, getattr(collectives, name), (group, *arguments))
        begun = self._new(value, overlapped.begin, (name, group, *arguments))
        begun.meta["part"] = self._part
        return self._new(begun, overlapped.end, ())

    def group_over(self, axes: Sequence[int]) -> str | None:
        """The name of this rank's group along an axis, or along all parts of one; None if there is none."""
        return self.places[axes[0]].group if len(axes) == 1 else self._whole_axes.get(tuple(sorted(axes)))

    def _sum_over_parts(self, value: fx.Node, step: dict[str, Any], whole: bool) -> fx.Node:
        """Over an axis that is in parts: at once, or part by part."""
        group = self.group_over(step["axes"])
        if group is None:
            for axis in step["axes"]:
                value = self._step_of_ranks(value, {**step, "axes": [axis]}, whole)
            return value
        return self._new(value, getattr(collectives, step["kind"]), (group,))

    def _step_in_time(self, values: Sequence[fx.Node], step: dict[str, Any]) -> list[fx.Node]:
        """A step between the parts that this rank computes: nothing travels."""
        kind, (axis,) = step["kind"], step["axes"]
        assert kind not in ("borders", "interval"), "the batch's rows are no window"
        if kind == "vary":
            return list(values)
        if kind in ("all_reduce", "reduce_scatter"):
            values = [self._new(values[0], in_time.add_up, tuple(values[1:]))] * len(values)
        if kind in ("all_gather", "all_to_all"):
            cut = self._cut(step["dim"], step["pieces"], step["piece"], axis)
            values = [self._new(values[0], in_time.join, (*values[1:], cut))] * len(values)
        if kind in ("reduce_scatter", "slice", "all_to_all"):
            to = "to_" if kind == "all_to_all" else ""
            whole, place = list(values), (step[f"{to}dim"], step[f"{to}pieces"], step[f"{to}piece"])
            values = self._in_parts(
                lambda part: self._new(whole[part], in_time.part, (self._cut(*place, axis),)), together=False
            )
        return list(values)

    def _output(self, node: fx.Node) -> fx.Node:
        """An output, with all parts in time."""
        values: list[fx.Node] = [of_part[node] for of_part in self._values]
        for dim, pieces in enumerate(self.completion.layouts.get(node, [])):
            for number, (_, axes) in enumerate(pieces):
                if self._in_time is not None and self._in_time in axes:
                    cut = self._cut(dim, pieces, number, self._in_time)
                    values = [self._new(values[0], in_time.join, (*values[1:], cut))] * len(values)
        return values[0]

    def _without_time(self, layout: Layout) -> Layout:
        return [
            [(size, [axis for axis in axes if axis != self._in_time]) for size, axes in pieces] for pieces in layout
        ]

    def _new(self, value: fx.Node, target: Any, arguments: tuple[Any, ...]) -> fx.Node:
        new = self.graph.call_function(target, (value, *arguments))
        new.meta.update({key: one for key, one in value.meta.items() if key in ("nn_module_stack", "stack_trace")})
        new.meta["operation"] = self._operation
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
            size = self.sizes.chunk(size, self.places[axis].ranks, self.places[axis].rank)
        return size

    def whole_size(self, size: int) -> Size:
        """A size that C++ knows by its stand-in."""
        return self.sizes.stand_for(size)


def _is_one(nodes: Sequence[fx.Node]) -> bool:
    return all(node is nodes[0] for node in nodes)
