"""What the nodes of a rank's graph give: fake tensors in the shapes of its parts, in terms of the batch's sizes.

The graph is run once on fake tensors, those of the capture, whose sizes are symbols. What comes of it is what all later
passes ask of a node: its shape, its dtype, and whose memory it shares. The graph is then as good as a captured one, and
is cut into stages like one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from merak._torch_graphs import fakes_of
from merak.graph.randomness import generators_kept
from merak.sharding.lower import Lowered
from merak.sharding.parts import local_shape
from merak.sharding.sizes import Formula
from merak.sharding.symbols import chunk_symbols


def give_values(lowered: Lowered) -> None:
    """Sets the values of all nodes of a lowered graph, in place."""
    captured = lowered.captured
    values: dict[fx.Node, Any] = {}
    with (
        generators_kept(torch.device("cpu")),
        fakes_of(captured.inputs.values()),
        torch.no_grad(),
        chunk_symbols() as symbols,
    ):
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                values[node] = _placeholder(lowered, node)
            elif node.op == "get_attr":
                values[node] = getattr(captured.graph.owning_module, str(node.target))
            elif isinstance(node.target, Formula):
                values[node] = node.target.size
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
            if node.op in ("placeholder", "call_function"):
                node.meta["val"] = values[node]
    captured.more_sizes.update(symbols.sizes)


def _placeholder(lowered: Lowered, node: fx.Node) -> Any:
    """A part of a parameter or buffer; all else is whole."""
    kind, key = lowered.captured.sources[node.name]
    whole = node.meta["val"]
    if kind not in ("parameter", "buffer"):
        return whole
    return whole.new_empty(local_shape(lowered.layouts[key], lowered.places))
