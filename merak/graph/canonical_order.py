"""The same graph in every process: one order of operations, and names that follow from it.

All ranks capture the model themselves, and must come to the same graph, for they name values, and seed dropout, by its
names. A model that goes through a `set` in its `forward`, such as Gemma3 for the kinds of its layers' masks, makes
masks and positions in an order that differs from process to process. What parameters have a part in keeps its order:
it is the model's. What the batch alone determines (`dependence`) is put directly before its first user, and so into
the order in which it is used. Then operations are counted by name, and constants that the model makes by first use.

What is written to in place stays in order with its writers and readers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from merak.graph.capture import Captured
from merak.graph.dependence import values_of_inputs
from merak.graph.normal_form import AliasGroups, written_arguments
from merak.graph.randomness import region_of

_LIFTED = re.compile(r"lifted_tensor_\d+$")
"""How torch.export names a tensor that the model makes out of nothing."""


def in_canonical_order(captured: Captured, groups: AliasGroups) -> Captured:
    """The same computation, with a graph of its own, in which `groups` are to be found again.

    Args:
        captured: in normal form.
    """
    operations = _ordered(captured, groups)
    placeholders = captured.graph.find_nodes(op="placeholder")
    used = dict.fromkeys(source for node in operations for source in node.all_input_nodes)
    lifted = [node for node in dict.fromkeys([*used, *placeholders]) if _is_lifted(captured, node)]
    names, keys = {node: node.name for node in placeholders}, dict[str, str]()
    for number, node in enumerate(lifted):
        key, name = captured.sources[node.name].key, f"lifted_tensor_{number}"
        names[node], keys[key] = _LIFTED.sub(name, node.name), _LIFTED.sub(name, key)
    in_turn = iter(lifted)
    placeholders = [next(in_turn) if node in lifted else node for node in placeholders]
    sources = {}
    for node in placeholders:
        source = captured.sources[node.name]
        sources[names[node]] = source._replace(key=keys[source.key]) if node in lifted else source
    return dataclasses.replace(
        captured,
        graph=_copied([*placeholders, *operations], names).graph,
        sources=sources,
        constants={keys.get(key, key): tensor for key, tensor in captured.constants.items()},
    )


def _is_lifted(captured: Captured, node: fx.Node) -> bool:
    if node.op != "placeholder":
        return False
    kind, key = captured.sources[node.name]
    return kind == "constant" and _LIFTED.search(key) is not None


def _ordered(captured: Captured, groups: AliasGroups) -> list[fx.Node]:
    """All but placeholders, in the new order."""
    movable = values_of_inputs(captured, groups)
    before = _dependencies(captured.graph, groups)
    placed: dict[fx.Node, None] = dict.fromkeys(captured.graph.find_nodes(op="placeholder"))
    count = len(placed)
    *nodes, output = captured.graph.nodes
    fixed = [node for node in nodes if node not in movable]
    for node in (*fixed, *output.all_input_nodes, *nodes, output):
        pending = [node]
        while pending:
            missing = next((one for one in before[pending[-1]] if one not in placed), None)
            if missing is not None:
                pending.append(missing)
            else:
                placed[pending.pop()] = None
    return list(placed)[count:]


def _dependencies(graph: fx.Graph, groups: AliasGroups) -> dict[fx.Node, list[fx.Node]]:
    """What must come before each node: its arguments in their order; earlier writers of memory that it reads, and
    earlier readers of memory that it writes to."""
    before: dict[fx.Node, list[fx.Node]] = {}
    using: dict[fx.Node, list[fx.Node]] = {root: [] for root in groups.writers}
    writing: dict[fx.Node, list[fx.Node]] = {root: [] for root in groups.writers}
    for node in graph.nodes:
        before[node] = list(node.all_input_nodes)
        written = {groups.root[argument] for argument in written_arguments(node)}
        for root in dict.fromkeys(groups.root[argument] for argument in node.all_input_nodes):
            if root in using:
                before[node] += using[root] if root in written else writing[root]
                using[root].append(node)
                if root in written:
                    writing[root].append(node)
    return before


def _copied(nodes: Sequence[fx.Node], names: Mapping[fx.Node, str]) -> fx.GraphModule:
    """A graph of these nodes in this order. Those without a name are called by their operation, and counted."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    parts: dict[str, Any] = {}
    for node in nodes:
        name = names.get(node) or re.sub(r"_\d+$", "", node.name)
        target = name if node.op == "placeholder" else node.target
        if node.op == "get_attr":
            region = region_of(node)
            target = f"part_{len(parts)}"
            parts[target] = getattr(node.graph.owning_module, str(node.target)) if region is None else _renamed(region)
        args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        copies[node] = graph.create_node(node.op, target, args, kwargs, name, node.type)
        copies[node].meta = dict(node.meta)
    return fx.GraphModule(parts, graph)


def _renamed(region: fx.GraphModule) -> fx.GraphModule:
    """A region in its own order."""
    placeholders = region.graph.find_nodes(op="placeholder")
    names = {node: f"argument_{number}" for number, node in enumerate(placeholders)}
    return _copied(list(region.graph.nodes), names)
