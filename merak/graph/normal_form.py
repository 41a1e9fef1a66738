"""The normal form of a captured graph, which all later passes rely on.

- A tied parameter has one placeholder.
- Assertions are gone (those on dtypes fail under autocast), and so is what nobody uses.
- Items are taken from a list (`split`, `chunk`, `topk`) right behind the operation that makes it, so that between
  operations mostly tensors are alive.
- No operation writes to an input: it writes to a copy.
- Regions without gradients (`torch.no_grad`) are taken in: they work on detached values. Those under autocast stay.

Operations in place stay what they are. `AliasGroups` says which values share memory, and who writes to it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import memory_of
from merak.graph.capture import Captured
from merak.graph.errors import CaptureError
from merak.graph.randomness import operation_of, region_of

_ASSERTIONS = ("_assert", "sym_constrain_range", "_guards_fn")


def normalise(captured: Captured) -> AliasGroups:
    """Brings the graph into normal form, in place; returns what shares memory in it.

    Raises:
        CaptureError: a parameter, or a tensor that is no buffer, is written to in `forward`.
    """
    _merge_tied(captured)
    _take_regions_in(captured.graph)
    _erase_assertions(captured.graph)
    erase_unused(captured.graph)
    _take_items_at_once(captured.graph)
    _copy_written_inputs(captured)
    return AliasGroups(captured)


class AliasGroups:
    """Which values share memory, and which operations write to it.

    A group is named by its *root*, the value that was made first. What may be a view of it belongs to the group: by the
    schemas of the operations, and by the memory of the fake tensors (`dropout` in evaluation returns what it is given).
    """

    def __init__(self, captured: Captured) -> None:
        self.root: dict[fx.Node, fx.Node] = {}
        self.writers: dict[fx.Node, list[fx.Node]] = {}
        """Of each root: the operations that write to its memory, in order."""
        self.find(captured)

    def find(self, captured: Captured) -> None:
        """Finds the groups, again after the graph was changed."""
        self.root.clear()
        self.writers.clear()
        in_memory: dict[int, fx.Node] = {}
        for node in captured.graph.nodes:
            memories = [memory_of(tensor) for tensor in tensors_in(node.meta.get("val"))]
            sharing = [source for source in aliased_arguments(node) if source in self.root]
            sharing += [in_memory[memory] for memory in memories if memory in in_memory]
            self.root[node] = node
            self._join(node, sharing)
            in_memory |= dict.fromkeys(memories, node)
            for source in written_arguments(node):
                self.writers.setdefault(self.root[source], []).append(node)

    def _join(self, node: fx.Node, others: list[fx.Node]) -> None:
        """Makes one group of a new node's and those of the others."""
        roots = dict.fromkeys(self.root[other] for other in others)
        if not roots:
            return
        first = next(known for known in self.root if known in roots)
        self.root[node] = first
        for root in roots.keys() - {first}:  # an operation on several values, such as broadcast_tensors
            self.root.update({known: first for known, of in self.root.items() if of is root})
            writers = self.writers.pop(root, []) + self.writers.get(first, [])
            if writers:
                self.writers[first] = sorted(writers, key=list(self.root).index)

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
    operation = operation_of(node)
    if operation is None:
        return []
    returned = {name for result in operation._schema.returns if result.alias_info for name in _sets(result)}
    return [value for argument, value in _arguments(node) if argument.alias_info and _sets(argument) & returned]


def written_arguments(node: fx.Node) -> list[fx.Node]:
    """The arguments to whose memory a node writes, those of statistics of batch normalisation included."""
    if operation_of(node) is None:
        return []
    written = [value for argument, value in _arguments(node) if argument.alias_info and argument.alias_info.is_write]
    return written + _updated_statistics(node)


def erase_unused(graph: fx.Graph, groups: AliasGroups | None = None) -> None:
    """Erases operations whose results nobody uses and that write nowhere; given groups, also those that write where
    nobody reads afterwards. Placeholders stay."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in reversed(graph.nodes):
        if node.op not in ("call_function", "get_attr") or node.users:
            continue
        if not written_arguments(node) or (groups and _is_lost(node, groups, order)):
            graph.erase_node(node)


def _is_lost(node: fx.Node, groups: AliasGroups, order: dict[fx.Node, int]) -> bool:
    """Whether nobody reads what an operation writes to."""
    root = groups.root[node]
    group = [member for member, of in groups.root.items() if of is root]
    later = any(order[user] > order[node] for member in group for user in member.users)
    return root.op != "placeholder" and not later


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what an operation gives: one, or a list of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def _updated_statistics(node: fx.Node) -> list[fx.Node]:
    values = {argument.name: value for argument, value in _arguments(node, nodes_only=False)}
    if not (values.get("training") or values.get("train") or values.get("use_input_stats")):
        return []
    return [value for name in ("running_mean", "running_var") if isinstance(value := values.get(name), fx.Node)]


def _sets(argument: torch.Argument) -> set[str]:
    alias = argument.alias_info
    return set(alias.before_set) | set(alias.after_set) if alias else set()


def _arguments(node: fx.Node, nodes_only: bool = True) -> Iterator[tuple[torch.Argument, fx.Node]]:
    """Arguments as the schema has them, with what the node gives for them; lists item by item."""
    for index, argument in enumerate(operation_of(node)._schema.arguments):  # type: ignore[union-attr]
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, fx.Node) or not nodes_only:
                yield argument, item


def _merge_tied(captured: Captured) -> None:
    first: dict[tuple[str, str], fx.Node] = {}
    for node in captured.graph.find_nodes(op="placeholder"):
        kept = first.setdefault(captured.sources[node.name], node)
        if kept is not node:
            node.replace_all_uses_with(kept)
            captured.graph.erase_node(node)
            del captured.sources[node.name]


def _take_regions_in(graph: fx.Graph) -> None:
    """Puts the operations of a region without gradients in its place. Their tensors from outside are detached, so that
    none of them gets a gradient."""
    for call in list(graph.nodes):
        if getattr(call.target, "__name__", "") != "wrap_with_set_grad_enabled":
            continue
        enabled, source, *given = call.args
        body = region_of(source)
        assert body is not None
        _take_regions_in(body.graph)
        with graph.inserting_before(call):
            results = _copied(graph, body, given if enabled else [_detached(graph, argument) for argument in given])
        for user in list(call.users):  # each takes an item
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(call)
        if not source.users:
            graph.erase_node(source)


def _copied(graph: fx.Graph, body: fx.GraphModule, given: list[Any]) -> list[Any]:
    """Copies a region's operations to the insertion point; its results there."""
    copies = dict(zip(body.graph.find_nodes(op="placeholder"), given, strict=True))
    for node in body.graph.nodes:
        if node.op not in ("placeholder", "output"):
            copies[node] = graph.node_copy(node, copies.__getitem__)
        if (inner := region_of(node)) is not None:
            copies[node].target = f"inlined_{copies[node].name}"
            setattr(graph.owning_module, copies[node].target, inner)
    return [copies.get(result, result) for result in body.graph.output_node().args[0]]  # type: ignore[union-attr]


def _detached(graph: fx.Graph, argument: Any) -> Any:
    if not isinstance(argument, fx.Node) or not isinstance(argument.meta.get("val"), torch.Tensor):
        return argument
    detached = graph.call_function(torch.ops.aten.detach.default, (argument,))
    detached.meta.update(argument.meta)
    return detached


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
        if kind == "constant" and any(user.target is not torch.ops.aten.lift_fresh_copy.default for user in root.users):
            raise CaptureError(
                f"the model writes to its tensor {name.removeprefix('model.')} in `forward` "
                f"({groups.writers[root][0].target}): make a buffer of it (`register_buffer`)"
            )
        if kind in ("input", "constant"):
            _copy(captured.graph, root)


def _copy(graph: fx.Graph, root: fx.Node) -> None:
    last = graph.find_nodes(op="placeholder")[-1]
    with graph.inserting_after(last):
        copy = graph.call_function(torch.ops.aten.clone.default, (root,))
    copy.meta.update(root.meta)
    root.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
