"""Operations in place, in a graph whose tensors are to be divided.

A divided tensor is another piece of memory wherever it is laid out anew, and what is written to one is not seen in the
other. Mostly that does not matter: a sum in place (`x += y`) whose old value nobody reads is as good out of place.
Where a view of a tensor is written to and the tensor is read, or a buffer is written to, the memory has to stay what it
is: all that shares it stays whole.
"""

from __future__ import annotations

from torch import fx

from merak.graph.capture import Captured
from merak.graph.normal_form import AliasGroups, written_arguments
from merak.graph.randomness import operation_of


def split_writers(captured: Captured, groups: AliasGroups, free: set[fx.Node]) -> tuple[set[fx.Node], set[fx.Node]]:
    """The operations that may be called out of place, and the values that must stay whole."""
    order = {node: index for index, node in enumerate(captured.graph.nodes)}
    members: dict[fx.Node, list[fx.Node]] = {}
    for node, root in groups.root.items():
        members.setdefault(root, []).append(node)
    out_of_place: set[fx.Node] = set()
    whole: set[fx.Node] = set()
    for root, writers in groups.writers.items():
        if root in free:
            continue
        if root.op != "placeholder" and all(_may_move(writer, members[root], order) for writer in writers):
            out_of_place.update(writers)
        else:
            whole.update(members[root])
    return out_of_place, whole


def _may_move(writer: fx.Node, members: list[fx.Node], order: dict[fx.Node, int]) -> bool:
    """Whether nobody reads, after a writer, what was there before it by another name."""
    operation = operation_of(writer)
    if operation is None or not operation._schema.name.endswith("_") or written_arguments(writer) != [writer.args[0]]:
        return False
    earlier = [member for member in members if order[member] < order[writer]]
    return all(order[user] <= order[writer] for member in earlier for user in member.users)
