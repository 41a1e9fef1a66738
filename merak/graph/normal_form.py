"""The normal form of a captured graph, which all later passes rely on.

- A tied parameter has one placeholder.
- Assertions are gone (those on dtypes fail under autocast), and so is what nobody uses.
- Items are taken from a list (`split`, `chunk`, `topk`) right behind the operation that makes it, so that between
  operations mostly tensors are alive.
- No operation writes to an input: it writes to a copy.

Operations in place stay what they are. `AliasGroups` says which values share memory, and who writes to it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from merak.graph.capture import Captured
from merak.graph.errors import CaptureError

_ASSERTIONS = ("_assert", "sym_constrain_range", "_guards_fn")


def normalise(captured: Captured) -> AliasGroups:
    """Brings the graph into normal form, in place; returns what shares memory in it.

    Raises:
        CaptureError: a parameter is written to in `forward`.
    """
    _merge_tied(captured)
    _erase_assertions(captured.graph)
    erase_unused(captured.graph)
    _take_items_at_once(captured.graph)
    _copy_written_inputs(captured)
    return AliasGroups(captured)


class AliasGroups:
    """Which values share memory, and which operations write to it.

    A group is named by its *root*, the value that was made first; what may be a view of it belongs to the group, by the
    schemas of the operations.
    """

    def __init__(self, captured: Captured) -> None:
        self.root: dict[fx.Node, fx.Node] = {}
        self.writers: dict[fx.Node, list[fx.Node]] = {}
        """Of each root: the operations that write to its memory, in order."""
        for node in captured.graph.nodes:
            aliased = [source for source in aliased_arguments(node) if source in self.root]
            self.root[node] = self.root[aliased[0]] if aliased else node
            for source in written_arguments(node):
                self.writers.setdefault(self.root[source], []).append(node)

    def spans(self, position: dict[fx.Node, int]) -> Iterator[tuple[int, int]]:
        """Of each group that is written to: positions of its root and of the last writer, where both are known."""
        for root, writers in self.writers.items():
            if root in position and writers[-1] in position:
                yield position[root], position[writers[-1]]


def aliased_arguments(node: fx.Node) -> list[fx.Node]:
    """The arguments of which a node's result may be a view, or that it returns after writing to them."""
    if node.op != "call_function":
        return []
    if node.target is operator.getitem:
        return [argument for argument in node.args[:1] if isinstance(argument, fx.Node)]
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    returned = {name for result in node.target._schema.returns if result.alias_info for name in _sets(result)}
    return [value for argument, value in _arguments(node) if argument.alias_info and _sets(argument) & returned]


def written_arguments(node: fx.Node) -> list[fx.Node]:
    """The arguments to whose memory a node writes, those of statistics of batch normalisation included."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return []
    written = [value for argument, value in _arguments(node) if argument.alias_info and argument.alias_info.is_write]
    return written + _updated_statistics(node)


def erase_unused(graph: fx.Graph) -> None:
    """Erases operations whose results nobody uses and that write nowhere. Placeholders stay."""
    for node in reversed(graph.nodes):
        if node.op in ("call_function", "get_attr") and not node.users and not written_arguments(node):
            graph.erase_node(node)


def _updated_statistics(node: fx.Node) -> list[fx.Node]:
    values = {argument.name: value for argument, value in _arguments(node, nodes_only=False)}
    if not (values.get("training") or values.get("train") or values.get("use_input_stats")):
        return []
    return [value for name in ("running_mean", "running_var") if isinstance(value := values.get(name), fx.Node)]


def _sets(argument: torch.Argument) -> set[str]:
    return set(argument.alias_info.before_set) | set(argument.alias_info.after_set)


def _arguments(node: fx.Node, nodes_only: bool = True) -> Iterator[tuple[torch.Argument, fx.Node]]:
    """Arguments as the schema has them, with what the node gives for them; lists item by item."""
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, fx.Node) or not nodes_only:
                yield argument, item  # type: ignore[misc]


def _merge_tied(captured: Captured) -> None:
    first: dict[tuple[str, str], fx.Node] = {}
    for node in captured.graph.find_nodes(op="placeholder"):
        kept = first.setdefault(captured.sources[node.name], node)
        if kept is not node:
            node.replace_all_uses_with(kept)
            captured.graph.erase_node(node)
            del captured.sources[node.name]


def _erase_assertions(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        name = getattr(node.target, "__name__", str(node.target))
        if node.op in ("call_function", "call_module") and name.startswith(_ASSERTIONS) and not node.users:
            graph.erase_node(node)


def _take_items_at_once(graph: fx.Graph) -> None:
    for node in graph.nodes:
        behind = node
        for user in list(node.users):
            if user.op == "call_function" and user.target is operator.getitem:
                behind.append(user)
                behind = user


def _copy_written_inputs(captured: Captured) -> None:
    groups = AliasGroups(captured)
    for root in groups.writers:
        if root.op != "placeholder":
            continue
        kind, name = captured.sources[root.name]
        if kind == "parameter":
            raise CaptureError(
                f"the model writes to its parameter {name} in `forward` ({groups.writers[root][0].target}); no "
                "micro-batch could rely on its value. Keep such values in a buffer"
            )
        if kind in ("input", "constant"):
            _copy(captured.graph, root)


def _copy(graph: fx.Graph, root: fx.Node) -> None:
    last = graph.find_nodes(op="placeholder")[-1]
    with graph.inserting_after(last):
        copy = graph.call_function(torch.ops.aten.clone.default, (root,))
    copy.meta.update(root.meta)
    root.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
