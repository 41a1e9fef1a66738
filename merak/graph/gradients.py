"""Which values of a graph get gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from merak.graph.capture import Captured

_STOPS = {"detach", "wrap_with_set_grad_enabled"}


def nodes_with_gradients(captured: Captured, trainable: set[str] | None = None) -> set[fx.Node]:
    """Nodes whose values depend on trainable parameters (names; all by default) by what can be differentiated.

    Never too few. A value that turns out to need none costs a message of zeros.
    """
    found: set[fx.Node] = set()
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            kind, key = captured.sources[node.name]
            if kind == "parameter" and (trainable is None or key in trainable):
                found.add(node)
        elif node.op == "call_function" and not found.isdisjoint(node.all_input_nodes):
            if _operation_name(node) not in _STOPS and any(map(_is_real, _tensors(node.meta.get("val")))):
                found.add(node)
    return found


def _operation_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _is_real(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
