"""Operations in place, in a graph whose tensors are to be divided.

A divided tensor is another piece of memory wherever it is laid out anew, and what is written to one is not seen in the
other. Mostly that does not matter: a sum in place (`x += y`) whose old value nobody reads is as good out of place.
Where a view of a tensor is written to and the tensor is read, or a buffer is written to, the memory has to stay what it
is: all that shares it stays whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from merak._torch_graphs import memory_of
from merak.graph.capture import Captured
from merak.graph.normal_form import AliasGroups, tensors_in, written_arguments
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
    earlier = [member for member in members if order[member] < order[writer] and _share_memory(member, writer)]
    return all(order[user] <= order[writer] for member in earlier for user in member.users)


def _share_memory(member: fx.Node, writer: fx.Node) -> bool:
    """Of one group, in which the items of a list are (values and indices of a `topk`) that need not."""
    written = {memory_of(tensor) for tensor in tensors_in(writer.meta.get("val"))}
    return not written.isdisjoint(memory_of(tensor) for tensor in tensors_in(member.meta.get("val")))


def out_of_place(called: torch._ops.OpOverload) -> Any:
    """The operation that gives what another writes."""
    name = called._schema.name.removeprefix("aten::").rstrip("_")
    return getattr(getattr(torch.ops.aten, name), called._overloadname)
