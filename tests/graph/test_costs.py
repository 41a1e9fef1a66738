"""What operations cost, where a graph has regions under autocast."""

from __future__ import annotations

from typing import Any

import torch

from merak.graph import prepare
from merak.graph.costs import measure
from merak.graph.randomness import region_of
from merak.pipeline.microbatches import bind
from tests.graph.test_capture import Net


def test_regions_among_other_layers_are_measured() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = model.linear(y)
        return {"loss": model.linear(y.float()).square().mean()}

    model, batch = Net(forward), {"x": torch.randn(6, 4)}
    prepared = prepare(model, batch)
    nodes = list(prepared.captured.graph.nodes)
    assert any(region_of(node) for node in nodes)
    measured = measure(prepared.captured, bind(prepared.captured, batch, 0).sizes)
    regions = [node for node in nodes if any(region_of(source) for source in node.all_input_nodes)]
    layers = [node for node in nodes if node.target is torch.ops.aten.linear.default]
    assert len(regions) == 1
    assert len(layers) == 2
    assert {measured.flops[node] for node in regions + layers} == {2 * 6 * 4 * 4}
    assert all(measured.saved_bytes(node) > 0 for node in regions)
