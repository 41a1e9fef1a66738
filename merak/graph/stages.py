"""A captured graph cut into stages, each a few small graphs that run by themselves.

The *trunk* is the operations that depend on parameters, in order of execution. A *boundary* is a position in it; a
stage is what lies between two. All else (masks, positions, shifted labels: what the batch alone determines) belongs to
no stage: each makes for itself what it needs, since every rank of a replica has the batch.

A *value* of the trunk that other stages use travels from the stage that makes it straight to each of those. Sizes do
not travel: they are formulas in the batch's sizes. A stage is cut once more into *segments*, so that the first can be
recomputed before the backward; a segment is a function from what it needs to what others need of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import fx

from merak.graph.capture import Captured
from merak.graph.dependence import with_dependencies
from merak.graph.errors import CaptureError
from merak.graph.gradients import nodes_with_gradients
from merak.graph.keeping import kept_call
from merak.graph.normal_form import AliasGroups


class Argument(NamedTuple):
    """What a segment is called with: a name of the model's, of an input, of a value; `fake` for sizes and values."""

    kind: Literal["parameter", "buffer", "constant", "input", "scale", "value", "size"]
    key: str
    fake: Any = None


class Value(NamedTuple):
    """What travels from a stage to others.

    Attributes:
        name: in the graph that the stages were cut from.
        common: its name on all ranks, of which some may have other graphs of the same model.
    """

    name: str
    producer: int
    consumers: tuple[int, ...]
    fake: torch.Tensor
    has_gradient: bool
    common: str


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a stage: `module(*arguments)` gives a tuple of `results`.

    Attributes:
        gradients: those of the results that get gradients.
        recomputed: keeps nothing in the forward, and runs again before the backward.
        written: keys of buffers that it writes to, which a recomputation must not.
    """

    module: fx.GraphModule
    arguments: tuple[Argument, ...]
    results: tuple[str, ...]
    gradients: frozenset[str]
    recomputed: bool
    written: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage computes.

    Attributes:
        received, sent: values from and to other stages, in order of their making.
        outputs: of the model's outputs by number, those of this stage, with the values' names.
        parameters, buffers: names of those that it uses.
    """

    index: int
    segments: tuple[Segment, ...]
    received: tuple[Value, ...]
    sent: tuple[Value, ...]
    outputs: dict[int, str]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


class Cuttable:
    """A captured graph, ready to be cut.

    Attributes:
        trunk: the operations that are divided among stages, in order.
        may_cut: of each position in the trunk, whether a boundary may lie before it.
    """

    def __init__(self, captured: Captured, groups: AliasGroups, of_inputs: set[fx.Node]) -> None:
        self.captured, self.groups, self.of_inputs = captured, groups, of_inputs
        graph = captured.graph
        self.trunk = [node for node in graph.nodes if node.op in ("call_function", "get_attr") and self._owned(node)]
        self.position = {node: index for index, node in enumerate(self.trunk)}
        self.may_cut = self._find_cuts()

    def _owned(self, node: fx.Node) -> bool:
        return node not in self.of_inputs and not _is_size(node)

    def _find_cuts(self) -> list[bool]:
        may = [True] * len(self.trunk)
        if may:
            may[0] = False
        spans = list(self.groups.spans(self.position)) + self._spans_of_buffers()
        for node in self.trunk:
            if not isinstance(node.meta.get("val"), torch.Tensor):
                spans.append((self.position[node], max(self._positions_of_users(node), default=0)))
        for first, last in spans:
            may[first + 1 : last + 1] = [False] * max(0, last - first)
        return may

    def _spans_of_buffers(self) -> list[tuple[int, int]]:
        """From the first to the last use of each buffer that is written to, or of views of it: it must be in one place,
        and would change under way when the next micro-batch writes to it."""
        spans = []
        for root in self.groups.writers:
            if root.op == "placeholder":
                sharing = [node for node, of in self.groups.root.items() if of is root]
                used = [position for node in sharing for position in self._positions_of_users(node)]
                spans.append((min(used), max(used)))
        return spans

    def _positions_of_users(self, node: fx.Node) -> list[int]:
        """Those in the trunk, behind sizes and the like too."""
        found = []
        for user in node.users:
            if user in self.position:
                found.append(self.position[user])
            elif user.op == "call_function":
                found += self._positions_of_users(user)
        return found

    def cut(
        self,
        boundaries: Sequence[int],
        recomputed: Sequence[int] | None = None,
        trainable: set[str] | None = None,
        kept: Collection[str] = (),
        may_be_empty: bool = False,
        in_order: Callable[[fx.Graph], fx.Graph] | None = None,
    ) -> list[Stage]:
        """Cuts the graph.

        Args:
            boundaries: first position of each stage but the first, rising.
            recomputed: how many operations at the begin of each stage are recomputed before its backward.
            trainable: names of the parameters that get gradients; all by default.
            kept: names of operations whose results stay where they are recomputed.
            may_be_empty: stages may have no operation: another graph of the model may have nothing of what they do.
            in_order: gives a segment's operations another order.

        Raises:
            CaptureError: a boundary lies where none may be.
        """
        ends = [0, *boundaries, len(self.trunk)]
        for boundary in boundaries:
            if may_be_empty and boundary in (0, len(self.trunk)):
                continue
            if not 0 < boundary < len(self.trunk) or not self.may_cut[boundary]:
                raise CaptureError(
                    f"no boundary between stages may lie before operation {boundary}{self._why(boundary)}"
                )
        if list(boundaries) != sorted(boundaries if may_be_empty else set(boundaries)):
            raise CaptureError(f"boundaries between stages must rise: {list(boundaries)}")
        prefixes = list(recomputed or [0] * (len(ends) - 1))
        gradients = nodes_with_gradients(self.captured, trainable)
        return _Cutter(self, ends, prefixes, gradients, kept, in_order).stages()

    def _why(self, boundary: int) -> str:
        if not 0 < boundary < len(self.trunk):
            return f" of {len(self.trunk)}"
        return f" ({self.trunk[boundary].name}): a list, or a value that is written to later, would cross it"


class _Cutter:
    def __init__(
        self,
        whole: Cuttable,
        ends: list[int],
        prefixes: list[int],
        gradients: set[fx.Node],
        kept: Collection[str],
        in_order: Callable[[fx.Graph], fx.Graph] | None,
    ) -> None:
        self.whole, self.ends, self.prefixes, self.gradients, self.kept = whole, ends, prefixes, gradients, kept
        self.in_order = in_order
        self.count = len(ends) - 1
        self.stage_of = {
            node: stage for stage, (begin, end) in enumerate(pairwise(ends)) for node in whole.trunk[begin:end]
        }
        outputs = whole.captured.graph.output_node().args[0]
        self.outputs: list[Any] = list(outputs)  # type: ignore[arg-type]

    def stages(self) -> list[Stage]:
        segments = [self._segments_of(stage) for stage in range(self.count)]
        values = self._values(segments)
        return [self._stage(stage, segments[stage], values) for stage in range(self.count)]

    def _segments_of(self, stage: int) -> list[_Nodes]:
        begin, end = self.ends[stage], self.ends[stage + 1]
        middle = min(begin + self.prefixes[stage], end)
        while middle < end and middle > begin and not self.whole.may_cut[middle]:
            middle += 1
        spans = [(begin, middle, True), (middle, end, False)]
        if self.prefixes[stage] == 0 or middle == begin:
            spans = [(begin, end, False)]
        elif middle == end:
            spans = [(begin, end, True)]
        return [_Nodes(self, stage, self.whole.trunk[first:last], again) for first, last, again in spans]

    def outputs_of(self, stage: int) -> dict[int, fx.Node]:
        last = self.count - 1
        return {
            number: node
            for number, node in enumerate(self.outputs)
            if isinstance(node, fx.Node) and self.stage_of.get(node, last) == stage
        }

    def _values(self, segments: list[list[_Nodes]]) -> dict[fx.Node, Value]:
        consumers: dict[fx.Node, list[int]] = {}
        for stage, parts in enumerate(segments):
            for node in dict.fromkeys(node for part in parts for node in part.outside):
                if self.stage_of[node] != stage:
                    consumers.setdefault(node, []).append(stage)
        return {
            node: Value(
                node.name,
                self.stage_of[node],
                tuple(consumers[node]),
                node.meta["val"],
                node in self.gradients,
                node.meta.get("common", node.name),
            )
            for node in self.whole.trunk
            if node in consumers
        }

    def _stage(self, stage: int, parts: list[_Nodes], values: dict[fx.Node, Value]) -> Stage:
        segments = tuple(part.segment() for part in parts)
        names = dict.fromkeys((one.kind, one.key) for segment in segments for one in segment.arguments)
        return Stage(
            index=stage,
            segments=segments,
            received=tuple(value for value in values.values() if stage in value.consumers),
            sent=tuple(value for value in values.values() if value.producer == stage),
            outputs={number: node.name for number, node in self.outputs_of(stage).items()},
            parameters=tuple(key for kind, key in names if kind == "parameter"),
            buffers=tuple(key for kind, key in names if kind == "buffer"),
        )


class _Nodes:
    """A segment in the making: its operations, what it makes for itself of the batch, what it needs from outside."""

    def __init__(self, cutter: _Cutter, stage: int, trunk: list[fx.Node], recomputed: bool) -> None:
        self.cutter, self.recomputed = cutter, recomputed
        whole = cutter.whole
        own = set(trunk)
        shown = {node for node in cutter.outputs_of(stage).values() if node in own or node not in whole.position}
        is_last = not trunk or trunk[-1] is whole.trunk[cutter.ends[stage + 1] - 1]
        self.results = shown if is_last else shown & own
        self.inside = own | self._made_here({input for node in own for input in node.all_input_nodes} | self.results)
        self.needed = {input for node in self.inside for input in node.all_input_nodes} | self.results
        outside = self.needed - self.inside
        self.outside = [node for node in whole.trunk if node in outside]
        self.sizes = [node for node in whole.captured.graph.nodes if node in outside and _is_size(node)]
        self.own = own

    def _made_here(self, needed: set[fx.Node]) -> set[fx.Node]:
        whole = self.cutter.whole
        return with_dependencies(needed & whole.of_inputs, whole.groups)

    def segment(self) -> Segment:
        whole = self.cutter.whole
        captured = whole.captured
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        arguments: list[Argument] = []

        def place(node: fx.Node, argument: Argument) -> None:
            copies[node] = graph.placeholder(node.name)
            arguments.append(argument)

        for node in captured.graph.nodes:
            if node.op == "placeholder" and node in self.needed:
                place(node, Argument(*captured.sources[node.name]))
        for node in self.outside:
            place(node, Argument("value", node.name, node.meta["val"]))
        for node in self.sizes:
            place(node, Argument("size", node.name, node.meta["val"]))
        for node in captured.graph.nodes:
            if node in self.inside and node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                if self.recomputed and node.name in self.cutter.kept:
                    copies[node].target = kept_call(node, self.cutter.gradients)
        results = [node for node in copies if node in self.results or (node in self.own and self._is_used(node))]
        graph.output(tuple(copies[node] for node in results))
        written = {
            captured.sources[root.name].key
            for root, writers in whole.groups.writers.items()
            if root.op == "placeholder" and not self.own.isdisjoint(writers)
        }
        if self.cutter.in_order is not None:
            graph = self.cutter.in_order(graph)
        module = fx.GraphModule(_attributes(captured, self.inside), graph)
        names = tuple(node.name for node in results)
        gradients = frozenset(node.name for node in results if node in self.cutter.gradients)
        return Segment(module, tuple(arguments), names, gradients, self.recomputed, frozenset(written))

    def _is_used(self, node: fx.Node) -> bool:
        """Whether other segments, or stages, use a value."""
        return any(user in self.cutter.stage_of and user not in self.own for user in node.users)


def _is_size(node: fx.Node) -> bool:
    """Whether a node's value is a number: a formula in the batch's sizes."""
    return node.op == "call_function" and isinstance(node.meta.get("val"), int | torch.SymInt)


def _attributes(captured: Captured, nodes: set[fx.Node]) -> dict[str, Any]:
    owner = captured.graph.owning_module
    names = [str(node.target) for node in nodes if node.op == "get_attr"]
    return {name: getattr(owner, name) for name in names}
