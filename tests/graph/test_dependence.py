"""What every stage can work out from the batch by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from merak.graph import capture
from merak.graph.dependence import values_of_inputs, with_dependencies
from merak.graph.normal_form import normalise
from tests.graph.test_capture import Net

BATCH = {"ids": torch.randint(0, 10, (3, 5)), "mask": torch.ones(3, 5)}


def found(body: Any, model: nn.Module | None = None) -> tuple[set[str], set[str]]:
    """Names of the operations that are values of the batch, and of the others."""
    captured = capture(model or Net(body), BATCH)
    groups = normalise(captured)
    inside = values_of_inputs(captured, groups)
    operations = [node for node in captured.graph.nodes if node.op == "call_function"]
    return {n.name for n in operations if n in inside}, {n.name for n in operations if n not in inside}


def test_masks_positions_sizes_and_labels() -> None:
    def forward(model: Net, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        positions = torch.arange(ids.shape[1]).float()
        bias = (1 - mask)[:, None] * -1e9
        scores = model.linear(model.embedding(ids)).softmax(-1) + positions[:, None] + bias.transpose(1, 2)
        return {"loss": F.cross_entropy(scores.flatten(0, 1), (ids % 4).flatten())}

    inside, outside = found(forward)
    assert {"arange", "rsub", "mul", "remainder"} <= inside
    assert outside == {"embedding", "linear", "softmax", "add", "add_1", "flatten", "cross_entropy_loss"}


def test_buffers_count_while_nobody_writes_to_them() -> None:
    def forward(model: Net, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        still = model.still * 2
        model.counter.add_(1)
        moving = model.counter * 3
        return {"loss": (model.embedding(ids) * still * moving).sum()}

    model = Net(forward)
    model.register_buffer("still", torch.ones(4))
    model.register_buffer("counter", torch.ones(()))
    inside, outside = found(forward, model)
    assert "mul" in inside
    assert {"add_", "mul_1", "embedding"} <= outside


def test_what_is_written_to_by_the_models_own_values_is_the_models() -> None:
    def forward(model: Net, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        filled = torch.zeros(ids.shape[0], 4)
        view = filled.view(-1)
        doubled = view * 2
        filled[:, 0] = model.embedding(ids)[:, 0, 0]
        other = torch.zeros(ids.shape[0], 4)
        other[:, 1] = mask[:, 0]
        return {"loss": (filled + other).square().sum() + doubled.sum()}

    inside, outside = found(forward)
    assert {"zeros_1", "copy__1"} <= inside
    assert {"zeros", "view", "mul", "copy_", "embedding"} <= outside, "what shares memory stays together"


def test_random_values_are_no_values_of_the_batch() -> None:
    def forward(model: Net, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        noisy = F.dropout(mask, 0.5)
        return {"loss": (model.embedding(ids) * (noisy * 2)[..., None] * (mask * 2)[..., None]).sum()}

    inside, outside = found(forward)
    assert {"dropout", "mul"} <= outside
    assert "mul_2" in inside


def test_dependencies_are_arguments_and_writers() -> None:
    def forward(model: Net, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        filled = torch.zeros(ids.shape[0], 5)
        part = filled[:, :2]
        part.copy_(mask[:, 3:])
        seen = filled * 2
        return {"loss": (model.embedding(ids)[:, 0, :] * seen[:, :4] * mask[:, :4]).sum()}

    captured = capture(Net(forward), BATCH)
    groups = normalise(captured)
    nodes = {node.name: node for node in captured.graph.nodes}
    needed = {node.name for node in with_dependencies({nodes["mul"]}, groups)}
    assert {"mul", "zeros", "copy_"} <= needed, "a write to memory that is read"
    assert "embedding" not in needed
