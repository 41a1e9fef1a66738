"""Which values get gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from merak.graph import capture, prepare
from merak.graph.gradients import nodes_with_gradients, parameters_with_gradients
from merak.graph.normal_form import normalise
from tests.graph.running import Run, assert_same_gradients, plain_gradients


class Deep(nn.Module):
    """Three layers, of which a test freezes some, with an adapter beside the second."""

    def __init__(self, detached: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.unused = nn.Linear(4, 4)
        self.detached = detached

    def forward(self, ids: torch.Tensor) -> Any:
        h = self.embedding(ids)
        h = self.layers[0](h).tanh()
        h = h.detach() if self.detached else h
        h = self.layers[1](h) + self.up(self.down(h))
        scores = self.layers[2](h.tanh())
        return {"loss": F.cross_entropy(scores, ids % 4), "other": self.unused(h), "chosen": scores.argmax(-1)}


BATCH = {"ids": torch.randint(0, 10, (6,))}


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def travelling(model: nn.Module, boundary_before: str) -> list[tuple[str, bool]]:
    """What crosses a boundary before the operation of that name, and whether its gradient comes back."""
    prepared = prepare(model, BATCH)
    position = next(i for i, node in enumerate(prepared.cuttable.trunk) if node.name == boundary_before)
    stages = prepared.cuttable.cut([position], trainable=trainable(model))
    return [(value.name, value.has_gradient) for value in stages[0].sent]


def test_all_that_leads_to_the_loss_and_nothing_else() -> None:
    captured = capture(Deep(), BATCH)
    normalise(captured)
    names = {node.name for node in nodes_with_gradients(captured)}
    assert {"embedding", "linear", "tanh", "cross_entropy_loss"} <= names
    assert not {"argmax", "remainder", "linear_5"} & names
    assert "linear_4" in names
    found = parameters_with_gradients(captured)
    assert found == {name for name, _ in Deep().named_parameters() if not name.startswith("unused")}


def test_they_are_those_of_one_process() -> None:
    for detached in (False, True):
        model = Deep(detached)
        captured = capture(model, BATCH)
        normalise(captured)
        expected = plain_gradients(model, model(**BATCH)["loss"])
        assert parameters_with_gradients(captured) == {name for name, one in expected.items() if one is not None}


def test_nothing_flows_behind_frozen_parameters() -> None:
    model = Deep()
    assert travelling(model, "linear_1") == [("tanh", True)]
    for part in (model.embedding, model.layers[0]):
        part.requires_grad_(False)
    assert travelling(model, "linear_1") == [("tanh", False)]
    assert travelling(model, "add") == [("linear_1", True), ("linear_3", True)]


def test_adapters_between_frozen_layers() -> None:
    model = Deep().requires_grad_(False)
    model.down.requires_grad_(True)
    model.up.requires_grad_(True)
    assert travelling(model, "linear_1") == [("tanh", False)]
    assert ("tanh_1", True) in travelling(model, "linear_4")
    prepared = prepare(model, BATCH)
    expected = plain_gradients(model, model(**BATCH)["loss"])
    allowed = [position for position, may in enumerate(prepared.cuttable.may_cut) if may]
    for boundary in allowed:
        for recomputed in (None, [10**6, 1]):
            made = Run(model, prepared, BATCH, boundaries=[boundary], recomputed=recomputed, microbatches=2)
            assert_same_gradients(made.gradients, expected)
            assert made.gradients["layers.1.weight"] is None


def test_nothing_flows_through_detach() -> None:
    assert travelling(Deep(detached=True), "linear_1") == [("detach", False)]


def test_what_depends_on_the_batch_alone_does_not_travel() -> None:
    names = [value for boundary in ("tanh", "linear_1", "tanh_1") for value, _ in travelling(Deep(), boundary)]
    assert "remainder" not in names


def test_without_a_loss_nothing_gets_gradients() -> None:
    class NoLoss(Deep):
        def forward(self, ids: torch.Tensor) -> Any:
            return self.layers[0](self.embedding(ids))

    captured = capture(NoLoss(), BATCH)
    assert nodes_with_gradients(captured) == set()
    assert parameters_with_gradients(captured) == set()


def test_all_frozen() -> None:
    model = Deep().requires_grad_(False)
    prepared = prepare(model, BATCH)
    assert parameters_with_gradients(prepared.captured, trainable(model)) == set()
    made = Run(model, prepared, BATCH, boundaries=[4])
    assert all(gradient is None for gradient in made.gradients.values())
    assert made.loss > 0
