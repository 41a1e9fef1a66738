"""What operations of the whole graph cost where they are shared by different numbers of ranks.

The costs of a rank's graph are those of more operations: what is there for the sake of one of the whole graph counts
for that. A stage of another width takes the costs of another rank's graph, and has other parts of parameters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TypeVar

from merak.graph.cutting import GraphCosts, NodeCost, Value
from merak.sharding.divided import Divided

Kind = TypeVar("Kind")


def by_operation(costs: GraphCosts, divided: Divided) -> GraphCosts:
    """The costs of a rank's graph by operations of the whole one."""
    count = len(divided.whole.cuttable.trunk)
    begins = [divided.begin(position) for position in range(count + 1)]
    nodes = [_sum(costs.nodes[begin:end]) for begin, end in pairwise(begins)]
    of_whole = divided.of_whole
    may_cut = [begin < end and costs.may_cut[begin] for begin, end in pairwise(begins)]
    values = []
    for value in costs.values:
        producer = of_whole[value.producer]
        consumers = sorted({of_whole[one] for one in value.consumers} - {producer})
        if consumers:
            values.append(Value(producer, tuple(consumers), value.nbytes, value.gradient))
    return replace(costs, nodes=tuple(nodes), values=tuple(values), may_cut=tuple(may_cut))


def mixed(costs: Mapping[Kind, GraphCosts], kinds: Sequence[Kind], boundaries: Sequence[int]) -> GraphCosts:
    """The costs where stages between these boundaries are on ranks of these kinds. What crosses does so whole, once.

    Args:
        costs: of the whole graph's operations, by kind: how many ranks share layers, say.
    """
    if len(costs) == 1:
        return next(iter(costs.values()))
    numbers: dict[tuple[Kind, str], int] = {}
    sizes: list[float] = []
    nodes = []
    for position in range(len(next(iter(costs.values())).nodes)):
        kind = kinds[bisect_right(boundaries, position)]
        node = costs[kind].nodes[position]
        used = []
        for parameter in node.parameters:
            name = costs[kind].parameter_names[parameter]
            if (kind, name) not in numbers:
                numbers[kind, name] = len(sizes)
                sizes.append(costs[kind].parameter_bytes[parameter])
            used.append(numbers[kind, name])
        nodes.append(replace(node, parameters=tuple(used)))
    may_cut = tuple(map(all, zip(*(one.may_cut for one in costs.values()), strict=True)))
    return GraphCosts(tuple(nodes), next(iter(costs.values())).values, tuple(sizes), may_cut)


def _sum(nodes: Sequence[NodeCost]) -> NodeCost:
    parameters = dict.fromkeys(parameter for node in nodes for parameter in node.parameters)
    return NodeCost(
        forward_s=sum(node.forward_s for node in nodes),
        backward_input_s=sum(node.backward_input_s for node in nodes),
        backward_weight_s=sum(node.backward_weight_s for node in nodes),
        saved_bytes=sum(node.saved_bytes for node in nodes),
        parameters=tuple(parameters),
        kept_bytes=sum(node.kept_bytes for node in nodes),
        kept=any(node.kept for node in nodes),
        working_bytes=_working(nodes),
    )


def _working(nodes: Sequence[NodeCost]) -> float:
    """The most that is alive in the backward of these, beyond all that they save."""
    saved = list(accumulate(node.saved_bytes for node in nodes))
    return max((now + node.working_bytes for now, node in zip(saved, nodes, strict=True)), default=0.0) - sum(
        saved[-1:]
    )
