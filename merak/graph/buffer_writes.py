"""Where a graph writes to the buffers that `forward` assigns to (`buffers`).

A buffer that is read and written to has to be in one stage. So the copy into it moves from the end of the graph to
right behind what makes the new value, and what reads the old value reads a clone of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from merak.graph.capture import Captured
from merak.graph.normal_form import AliasGroups

_COPY = torch.ops.aten.copy_.default


def place_assigned(captured: Captured) -> None:
    """Moves the copies of `write_assigned` from the end of the graph to where the new values are there, in place."""
    copies = _copies_of_assigned(captured)
    for copy, name in copies:
        _read_clone(captured, copy, name)
    if not copies:
        return
    groups = AliasGroups(captured)
    for copy, _ in copies:
        detach: Any = copy.args[1]
        source = detach.args[0]
        order = {node: index for index, node in enumerate(captured.graph.nodes)}
        buffer: Any = copy.args[0]
        # The value may be written to after it was assigned; the old one is read first.
        clones = [user for user in buffer.users if user is not copy]
        written = groups.writers.get(groups.root[source], [])
        inputs = captured.graph.find_nodes(op="placeholder")
        last = max([source, *clones, *written, inputs[-1]], key=order.__getitem__)
        last.append(detach)
        detach.append(copy)


def _copies_of_assigned(captured: Captured) -> list[tuple[fx.Node, str]]:
    """They come last, in the order of the names."""
    count = len(captured.assigned)
    copies = list(captured.graph.find_nodes(op="call_function", target=_COPY))[-count:] if count else []
    return list(zip(copies, captured.assigned, strict=True))


def _read_clone(captured: Captured, copy: fx.Node, name: str) -> None:
    buffer = next(
        node
        for node in captured.graph.find_nodes(op="placeholder")
        if captured.sources[node.name].kind == "buffer" and captured.sources[node.name].key == name
    )
    copy.args = (buffer, copy.args[1])
    users = [user for user in buffer.users if user is not copy]
    if not users:
        return
    order = {node: index for index, node in enumerate(captured.graph.nodes)}
    first = min(users, key=order.__getitem__)
    if first.op == "output":
        first = copy
    with captured.graph.inserting_before(first):
        clone = captured.graph.call_function(torch.ops.aten.clone.default, (buffer,))
    clone.meta.update(buffer.meta)
    clone.meta["val"] = torch.empty_like(buffer.meta["val"])  # in memory of its own
    for user in users:
        user.replace_input_with(buffer, clone)
