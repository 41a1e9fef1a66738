"""A model's operations, where a number of ranks share each layer: a rank's share of them, and what travels.

The sharding of the whole graph is completed for so many ranks, and that says all: by how many ranks an operation's work
is divided, which part of each saved tensor and parameter a rank has, and what travels before and after it. The graph is
not lowered for it; a rank's own graph, which an engine makes, has the same products and saves as much
(tests/planner/test_shared_work.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from merak.planner.workload import Workload
from merak.sharding.annotations import Annotation, Tactic
from merak.sharding.completion import Completion
from merak.sharding.program import Layout, Operation, ShardableGraph
from merak.sharding.tactics import megatron, sequence
from merak.sharding.width import AXIS


@dataclass(frozen=True)
class Message:
    """What travels for an operation, in the example's number of rows: the kind of collective ("" for none) and the
    bytes of the whole tensor, forward and backward; and whether these grow with the rows, as those of no parameter
    do."""

    kind: str
    nbytes: float
    backward_kind: str
    backward_nbytes: float
    of_rows: bool = True


@dataclass(frozen=True)
class Share:
    """A rank's share of an operation.

    Attributes:
        work: of the FLOPs.
        touched: of operands' and results' bytes, by node.
        saved: of what it saves, one by one; more than all of it where several operations keep it in other layouts.
        messages: what travels for it in each micro-batch.
    """

    work: float
    touched: dict[fx.Node, float]
    saved: tuple[float, ...]
    messages: tuple[Message, ...] = ()


class SharedWorkload:
    """A workload divided among the ranks that share each layer.

    Args:
        ranks: how many; 1 for none but one.
        sequence_parallel: divide what Megatron's way leaves whole by positions.
        annotations: what the user wishes; these come before Megatron's way.

    Attributes:
        shares: by operation of the trunk.
        parameters: by name, which share of its bytes a rank has.
        summed: bytes of parameters of whose gradients each rank has a part, added up once a step.
    """

    def __init__(
        self,
        workload: Workload,
        ranks: int = 1,
        *,
        sequence_parallel: bool = False,
        annotations: Sequence[Annotation | Tactic] = (),
    ) -> None:
        self.workload, self.ranks, self.sequence_parallel = workload, ranks, sequence_parallel
        trunk = workload.prepared.cuttable.trunk
        self.shares = {node: _whole(node, workload) for node in trunk}
        self.parameters: dict[str, float] = {}
        self.summed = 0.0
        if ranks > 1:
            graph = ShardableGraph(workload.prepared, {AXIS: ranks}, workload.trainable)
            wishes = [*annotations, megatron(AXIS), *([sequence(AXIS)] if sequence_parallel else [])]
            self._divide(Completion(graph, wishes))

    @property
    def parameter_bytes(self) -> float:
        """Of a rank's parameters."""
        return sum(nbytes * self.parameters.get(name, 1.0) for name, nbytes in self.workload.parameter_bytes.items())

    def _divide(self, completion: Completion) -> None:
        position = self.workload.prepared.cuttable.position
        messages: dict[fx.Node, list[Message]] = {}
        for operation, reshard in completion.reshards_of_operations():
            message = Message(
                _kind(reshard.kind),
                self._whole_nbytes(reshard.kind, reshard.nbytes),
                _kind(reshard.backward_kind),
                self._whole_nbytes(reshard.backward_kind, reshard.backward_nbytes),
                of_rows=not reshard.parameter,
            )
            if reshard.parameter and (message.kind, message.backward_kind) == ("", "all_reduce"):
                self.summed += message.backward_nbytes
            else:
                messages.setdefault(operation.node, []).append(message)
        sizes = list(completion.graph.mesh.values())
        shared = {
            operation.node: _Shared(operation, way, sizes)
            for operation, way in zip(completion.graph.operations, completion.ways, strict=True)
            if operation.node in position
        }
        for node, one in shared.items():
            saved = tuple(_share_of_saved(keepers, shared) for _, keepers in self.workload.work[node].saved)
            self.shares[node] = Share(one.work, one.touched, saved, tuple(messages.get(node, ())))
        for node in completion.graph.values:
            if completion.graph.is_parameter(node):
                share = _share_of(completion.layouts[node], sizes)
                self.parameters[self.workload.prepared.captured.sources[node.name].key] = share

    def _whole_nbytes(self, kind: str, sent: float) -> float:
        """Of the whole tensor, from what a rank sends of it. If only part of the ranks exchange it, of one of which all
        would send as much."""
        n = self.ranks
        if kind in ("halo exchange", ""):
            return sent
        return sent * n / (n - 1) / (2 if kind == "all-reduce" else 1)


class _Shared:
    """How ranks share an operation: its work, and what it is given and gives, as it takes and makes them."""

    def __init__(self, operation: Operation, way: dict[str, Any], sizes: Sequence[int]) -> None:
        self.work = _share_of(way["factors"], sizes)
        made = zip(operation.results, (layout for layout, _ in way["results"]), strict=True)
        taken = zip(operation.operands, way["operands"], strict=True)
        self.touched = {node: _share_of(layout, sizes) for node, layout in (*made, *taken) if node is not None}


def _share_of_saved(keepers: Mapping[fx.Node, fx.Node | None], shared: Mapping[fx.Node, _Shared]) -> float:
    """Of a tensor, once for each share of it that operations keep: where one keeps all of what another has a part of,
    the two are tensors of their own."""
    found = set()
    for keeper, value in keepers.items():
        one = shared.get(keeper)  # none computes what all ranks do
        found.add(1.0 if one is None else one.work if value is None else one.touched.get(value, one.work))
    return sum(found)


def _whole(node: fx.Node, workload: Workload) -> Share:
    touched = dict.fromkeys([*node.all_input_nodes, node], 1.0)
    return Share(1.0, touched, (1.0,) * len(workload.work[node].saved))


def _share_of(layout: Layout, sizes: Sequence[int]) -> float:
    """Of a tensor, on a mesh with axes of these sizes; rounded up where it does not divide evenly."""
    share = 1.0
    for size, axes in (piece for pieces in layout for piece in pieces if piece[1]):
        own = size
        for axis in axes:
            own = math.ceil(own / sizes[axis])
        share *= own / size
    return share


def _kind(name: str) -> str:
    """As clusters call it."""
    return {"halo exchange": "send", "slice": ""}.get(name, name.replace("-", "_"))
