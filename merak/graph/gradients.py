"""Which values of a graph get gradients: those that depend on trainable parameters, and on which the loss depends."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from merak.graph.capture import Captured
from merak.graph.normal_form import tensors_in

_STOPS = {"detach", "detach_"}


def nodes_with_gradients(captured: Captured, trainable: set[str] | None = None) -> set[fx.Node]:
    """Nodes that get gradients; placeholders of parameters among them.

    Never too few. A value that turns out to get none costs a message of zeros.

    Args:
        trainable: names of the parameters that may get gradients; all by default.
    """
    forward: set[fx.Node] = set()
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            kind, key = captured.sources[node.name]
            if kind == "parameter" and (trainable is None or key in trainable):
                forward.add(node)
        elif node.op == "call_function" and not forward.isdisjoint(node.all_input_nodes) and _passes_on(node):
            forward.add(node)
    return forward & _leading_to_loss(captured, forward)


def parameters_with_gradients(captured: Captured, trainable: set[str] | None = None) -> set[str]:
    """Names of the parameters that get gradients. One process would leave those of the others None."""
    nodes = nodes_with_gradients(captured, trainable)
    return {captured.sources[node.name].key for node in nodes if node.op == "placeholder"}


def embedding_tables(captured: Captured) -> set[str]:
    """Names of the parameters that only embeddings read: most rows of their gradients are zero."""
    return {
        captured.sources[node.name].key
        for node in captured.graph.find_nodes(op="placeholder")
        if captured.sources[node.name].kind == "parameter"
        and node.users
        and all(_operation_name(user) == "embedding" and user.args[0] is node for user in node.users)
    }


def _leading_to_loss(captured: Captured, among: set[fx.Node]) -> set[fx.Node]:
    if captured.loss is None:
        return set()
    outputs: Any = captured.graph.output_node().args[0]
    pending = [outputs[captured.loss]]
    found: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node in among and node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _passes_on(node: fx.Node) -> bool:
    """Whether gradients go through an operation, to arguments that get some."""
    return _operation_name(node) not in _STOPS and any(map(_is_real, tensors_in(node.meta.get("val"))))


def _operation_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _is_real(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
