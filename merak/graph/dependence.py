"""What of a graph depends on what: which values every stage could work out for itself from the batch."""

from __future__ import annotations

from torch import fx

from merak.graph.capture import Captured
from merak.graph.normal_form import AliasGroups
from merak.graph.randomness import is_random


def values_of_inputs(captured: Captured, groups: AliasGroups) -> set[fx.Node]:
    """Nodes that depend on the batch, constants and buffers that stay as they are, and on nothing else: positions,
    masks, shifted labels, sizes.

    Every rank of a replica has the batch, so that a stage makes such values itself. What shares memory stays together:
    a group with a writer counts only if all of it does.
    """
    found: set[fx.Node] = set()
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            source = captured.sources[node.name]
            if source.kind in ("input", "constant") or (source.kind == "buffer" and node not in groups.writers):
                found.add(node)
        elif node.op == "get_attr" or (
            node.op == "call_function" and found.issuperset(node.all_input_nodes) and not is_random(node)
        ):  # the operations of a region
            found.add(node)
    while torn := _torn_groups(found, groups):
        _discard(found, torn)
    return found


def with_dependencies(nodes: set[fx.Node], groups: AliasGroups) -> set[fx.Node]:
    """The nodes and all that they need: arguments, and writers to memory that they read."""
    needed: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in needed:
            continue
        needed.add(node)
        pending += node.all_input_nodes
        pending += groups.writers.get(groups.root[node], ())
    return needed


def _torn_groups(found: set[fx.Node], groups: AliasGroups) -> set[fx.Node]:
    """Members of `found` whose group is written to by what is not in it."""
    torn = {root for root, writers in groups.writers.items() if not found.issuperset(writers)}
    return {node for node in found if groups.root[node] in torn}


def _discard(found: set[fx.Node], nodes: set[fx.Node]) -> None:
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in found:
            found.discard(node)
            pending += node.users
