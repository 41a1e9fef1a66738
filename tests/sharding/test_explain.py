"""What is said of a completed sharding, in units that fit it; batch norms, of which much is to be said, keep rows."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from merak import sharding
from merak.graph import prepare
from merak.sharding import Completion
from merak.sharding.lower import lower
from merak.sharding.parts import Place
from tests.sharding.test_completion import MESH, Two
from tests.sharding.test_odd_programs import divided
from tests.sharding.whole import arguments, bound


class Normed(nn.Module):
    """Convolutions with batch norms between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x)).relu()
        return {"loss": functional.cross_entropy(self.head(x.mean((2, 3))), y)}


def example(rows: int = 4) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, 6, 6, dtype=torch.float64, generator=random)
    return {"x": x, "y": torch.randint(0, 4, (rows,), generator=random)}


def normed(*wishes: Any, training: bool = True) -> Completion:
    made = prepare(Normed().double(), example(), training=training)
    return sharding.complete(made, mesh={"dp": 2}, annotations=wishes)


def test_behind_a_batch_norm_rows_are_divided_again() -> None:
    completion = normed(sharding.batch("dp"))
    for operation, way in zip(completion.graph.operations, completion.ways, strict=True):
        if operation.name in ("conv2d", "relu", "mean", "linear"):
            assert way["divided"] == [0], operation.node.name
            assert completion.layout_text(operation.node).startswith("(dp"), operation.node.name
    gathered = [one for one in completion.reshards() if one.kind == "all-gather"]
    assert [one.tensor for one in gathered] == ["conv2d", "conv2d_1", "conv2d_2"]
    (line,) = [line for line in completion.explain().splitlines() if line.startswith("the batch is gathered")]
    assert line.endswith("statistics are of all its rows: batch_norm, batch_norm_1, batch_norm_2")


def test_in_evaluation_nothing_is_gathered_for_statistics() -> None:
    completion = normed(sharding.batch("dp"), training=False)
    assert not [one for one in completion.reshards() if one.kind == "all-gather"]
    assert "the batch is gathered" not in completion.explain()


def test_channels_that_are_gathered_are_not_the_batch() -> None:
    completion = normed(sharding.annotate("convolutions.0.weight", ("dp", None, None, None)))
    assert any(one.kind == "all-gather" for one in completion.reshards())
    assert "the batch is gathered" not in completion.explain()


@pytest.mark.parametrize(("ranks", "rows"), [(2, 4), (3, 4), (3, 2)])
@pytest.mark.parametrize("wish", [sharding.batch("d"), sharding.annotate("x", ("d", None, None, None))])
def test_batch_norms_have_the_same_numbers(ranks: int, rows: int, wish: Any) -> None:
    model, batch = Normed().double(), example(rows)
    outcomes = divided(model, batch, {"d": ranks}, [wish])
    loss = model(**batch)["loss"]
    loss.backward()
    norms = torch.stack([one.grad.norm() for one in model.parameters() if one.grad is not None])
    for found, gradients in outcomes:
        assert found == pytest.approx(loss.item(), rel=1e-9)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-10 * float(norms.norm()))


def test_rows_that_come_one_part_after_the_other_are_divided_again_too() -> None:
    """An axis that is time: what is gathered is put together, and cut again, and nothing travels."""
    model, batch = Normed().double(), example()
    made = prepare(model, batch)
    completion = sharding.complete(made, mesh={"time": 2}, annotations=sharding.batch("time"))
    lowered = lower(completion, [Place(0, 1, "")], sums_at_end=True, time_axis="time")
    called = [str(node.target) for node in lowered.captured.graph.nodes if node.op == "call_function"]
    assert sum("conv2d" in one for one in called) == 6
    assert sum("batch_norm" in one for one in called) == 3
    tensors = {("buffer", name): one.clone() for name, one in model.named_buffers()}
    tensors |= {("parameter", name): one for name, one in model.named_parameters()}
    outputs = fx.GraphModule(nn.Module(), lowered.captured.graph)(
        *arguments(lowered.captured, bound(made, batch), tensors)
    )
    found = torch.autograd.grad(outputs[lowered.captured.loss], list(model.parameters()))
    expected = torch.autograd.grad(model(**batch)["loss"], list(model.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_bytes_have_units_that_fit() -> None:
    text = sharding.complete(
        Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=[sharding.annotate("first.weight", ("tp", None))]
    ).explain()
    (line,) = [line for line in text.splitlines() if line.startswith("all-reduce ")]
    assert re.search(r"^all-reduce +- +tp +128 B +-  linear_1: ", line), line  # 4 x 8 numbers
    assert "MB" not in text


def test_of_parameters_it_is_said_what_travels_over_which_axis() -> None:
    wishes = [sharding.batch("dp"), sharding.zero("dp", least=64)]
    completion = sharding.complete(Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=wishes)
    text = completion.explain()
    # weights of 256 bytes: half of each is sent; biases of 32 bytes: of two ranks each sends all
    assert "and of 4 parameters, 576 B a step:\n" in text
    for line in ("2 all-gathers of 256 B", "2 reduce-scatters of 256 B", "2 all-reduces of 64 B"):
        assert f"\n    over dp {line} in all" in text
    assert "a step" not in sharding.complete(Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=[]).explain()


def test_it_is_said_what_work_is_not_divided_without_a_collective() -> None:
    wish = sharding.annotate("first.weight", ("tp", None))
    completion = sharding.complete(Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=[wish])
    (reduced,) = [one for one in completion.reshards() if one.kind == "all-reduce"]
    remedy = completion.remedy(reduced)
    assert remedy is not None
    without = completion.with_first(remedy.annotation)
    tp = completion.graph.axis("tp")
    now, then = (sum(tp in way["divided"] for way in one.ways) for one in (completion, without))
    assert remedy.undivided == now - then > 0
    assert f" and {remedy.undivided} operations are no longer divided over tp" in str(remedy)
