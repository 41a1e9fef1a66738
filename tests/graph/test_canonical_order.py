"""Every process comes to the same graph, whatever order it made masks in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from merak.graph import capture, prepare
from merak.graph.canonical_order import in_canonical_order
from merak.graph.capture import Captured
from merak.graph.dependence import values_of_inputs
from merak.graph.normal_form import AliasGroups, normalise
from merak.graph.stages import Cuttable
from tests.graph.running import Run
from tests.graph.test_capture import Net
from tests.graph.test_stages import Mixed
from tests.graph.test_stages import batch as mixed_batch

PROGRAM = """
from merak.graph.prepare import prepare
from tests.engine import zoo

prepared = prepare(zoo.make("{model}", 0.1), zoo.batch_of("{model}", 4, 0))
print(prepared.captured.graph, prepared.captured.sources, *prepared.captured.constants)
"""


class InAnyOrder(nn.Module):
    """Makes what the batch determines in a given order, as one that goes through a set does in any."""

    def __init__(self, order: Sequence[str]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.order = order
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> Any:
        """The loss, and an output that depends on the batch alone."""
        made = {name: getattr(self, f"_{name}")(at) for name in self.order}
        y = self.second(self.first(x) * made["scaled"] + made["written"]) * made["cast"]
        return {"loss": y.square().mean(), "y": y, "rest": made["rest"]}

    def _scaled(self, at: torch.Tensor) -> torch.Tensor:
        return at * torch.tensor([1.0, 2.0, 3.0, 4.0])

    def _written(self, at: torch.Tensor) -> torch.Tensor:
        places = torch.zeros_like(at)
        before = places + 1
        places[:, 0] += 5
        return places.mul_(before) + torch.tensor([4.0, 3.0, 2.0, 1.0])

    def _cast(self, at: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (at @ at.t()).float().sum() + 0 * at

    def _rest(self, at: torch.Tensor) -> torch.Tensor:
        return (at + 3).cumsum(0)


ORDERS = [
    ("scaled", "written", "cast", "rest"),
    ("rest", "cast", "written", "scaled"),
    ("cast", "rest", "scaled", "written"),
]


def batch() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {"x": torch.randn(6, 4, generator=random), "at": torch.randn(6, 4, generator=random)}


def canonical(model: nn.Module, example: dict[str, torch.Tensor]) -> Captured:
    captured = capture(model, example)
    return in_canonical_order(captured, normalise(captured))


def regions(captured: Captured) -> list[str]:
    nodes = captured.graph.find_nodes(op="get_attr")
    return [str(getattr(captured.graph.owning_module, node.target).graph) for node in nodes]


def test_the_order_of_what_the_batch_determines_does_not_show() -> None:
    raw = {str(capture(InAnyOrder(order), batch()).graph) for order in ORDERS}
    assert len(raw) == len(ORDERS)
    made = [canonical(InAnyOrder(order), batch()) for order in ORDERS]
    for captured in made:
        captured.graph.lint()
        assert str(captured.graph) == str(made[0].graph)
        assert captured.sources == made[0].sources
        assert regions(captured) == regions(made[0]) != []
        for key, tensor in made[0].constants.items():
            assert torch.equal(captured.constants[key], tensor), key


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_numbers_stay(order: Sequence[str]) -> None:
    model = InAnyOrder(order)
    run = Run(model, prepare(model, batch()), batch())
    expected = model(**batch())
    assert run.loss == pytest.approx(float(expected["loss"].detach()), rel=1e-5)
    for name in ("y", "rest"):
        torch.testing.assert_close(run.outputs[0][name], expected[name].detach())


def read_around_writes(model: Net, x: torch.Tensor) -> Any:
    places = torch.arange(4.0) * 1
    early = model.linear(x) + places  # the trunk reads, before a write
    places += 10
    late = places * 2
    places += 100
    return {"loss": (early + late + places).sum(), "late": late}


def test_reads_and_writes_keep_their_order() -> None:
    net = Net(read_around_writes)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    made = Run(net, prepare(net, {"x": x}), {"x": x})
    assert made.loss == pytest.approx(float(net(x=x)["loss"].detach()), rel=1e-5)
    torch.testing.assert_close(made.outputs[0]["late"], torch.arange(4.0) * 2 + 20)


def test_the_trunk_keeps_its_order() -> None:
    captured = capture(Mixed(), mixed_batch())
    groups = normalise(captured)
    before = Cuttable(captured, groups, values_of_inputs(captured, groups)).trunk
    made = in_canonical_order(captured, groups)
    groups = AliasGroups(made)
    after = Cuttable(made, groups, values_of_inputs(made, groups)).trunk
    assert [node.target for node in after] == [node.target for node in before]
    assert [node.meta for node in after] == [node.meta for node in before]


@pytest.mark.parametrize(
    ("model", "seeds"),  # with which the model's own order differs
    [("gemma3", ("1", "2")), pytest.param("modernbert", ("1", "3"), marks=pytest.mark.slow)],
)
def test_processes_with_other_hashes_come_to_the_same_graph(model: str, seeds: tuple[str, str]) -> None:
    first, second = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(model=model)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in seeds
    )
    assert len(first) > 1000
    assert first == second
