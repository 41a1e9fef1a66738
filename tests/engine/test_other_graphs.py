"""Evaluation's graph has not all operations of training's, and is cut so that each rank has the parameters it needs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import merak
from merak.engine.variants import names_of, same_boundaries
from merak.graph import CaptureError, prepare
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]


class Convolutions(nn.Module):
    """Each block begins with parameters, then counts batches, which evaluation does not."""

    def __init__(self, blocks: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = [1, *[8] * blocks]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o in itertools.pairwise(widths)
            )
        )
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        scores: torch.Tensor = self.head(self.blocks(x).mean((2, 3)))
        return scores


class Reordered(nn.Module):
    """Uses its layers the other way round in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The result of both layers."""
        for layer in self.layers if self.training else reversed(self.layers):
            x = layer(x).tanh()
        return x


def entropy(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return F.cross_entropy(output, batch["y"])


def batch(rows: int = 8) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(rows)
    return {"x": torch.randn(rows, 1, 8, 8, generator=random), "y": torch.arange(rows) % 10}


def test_every_boundary_is_followed_with_the_same_parameters() -> None:
    model = Convolutions(3)
    first = prepare(model, batch(), loss_fn=entropy).cuttable
    for other_batch, loss_fn in ((batch(), entropy), ({"x": batch()["x"]}, None)):
        other = prepare(model, other_batch, training=False, loss_fn=loss_fn).cuttable
        allowed = [position for position, may in enumerate(first.may_cut) if may]
        pairs = [[one] for one in allowed] + [[a, b] for a in allowed for b in allowed if a < b]
        for boundaries in pairs:
            stages = first.cut(boundaries)
            found = same_boundaries(first, boundaries, stages, other)
            for stage, before in zip(other.cut(found, may_be_empty=True), stages, strict=True):
                assert names_of(stage) <= names_of(before), (boundaries, found)


def test_what_cannot_be_followed_says_which_operation_is_in_the_way() -> None:
    model, example = Reordered(), {"x": torch.ones(3, 4)}
    first = prepare(model, example, loss_fn=lambda y, _: y.mean()).cuttable
    other = prepare(model, example, training=False).cuttable
    with pytest.raises(CaptureError, match=r"operation linear_1 uses layers\.0\.bias, layers\.0\.weight, which no"):
        same_boundaries(first, [2], first.cut([2]), other)


def train_and_evaluate(context: Context, plan: merak.Plan, model: nn.Module) -> tuple[float, torch.Tensor, int]:
    """The loss in evaluation after a step, the output, and how many stages have nothing to do there."""
    engine = merak.parallelize(
        model, plan, batch(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), loss_fn=entropy
    )
    engine.train_step(batch())
    made = engine.eval_step(batch(6))
    assert made.loss is not None
    variants = [one for known in engine._variants._known.values() for one in known]
    empty = sum(not stage.segments[0].results for stage in variants[-1].stages)
    return made.loss, made.output, empty


def evaluated_plainly(model: nn.Module) -> tuple[float, torch.Tensor]:
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rows in (slice(0, 4), slice(4, 8)):
        (F.cross_entropy(model(batch()["x"][rows]), batch()["y"][rows]) / 2).backward()
    optimizer.step()
    with torch.no_grad():
        output = model.eval()(batch(6)["x"])
    return float(F.cross_entropy(output, batch(6)["y"])), output


@pytest.mark.parametrize(
    ("ranks", "cuts", "empty"),
    [(2, None, 0), (3, ("add_", "batch_norm"), 1), (3, ("add__1", "relu_1"), 0)],
    ids=["by cost", "a stage that only counts", "behind convolutions"],
)
def test_evaluation_is_that_of_one_process(run: Runner, ranks: int, cuts: tuple[str, ...] | None, empty: int) -> None:
    model = Convolutions()
    loss, output = evaluated_plainly(model)
    plan = merak.Plan(pp=ranks, microbatches=2, cuts=cuts)
    for found, scores, without in run(train_and_evaluate, plan, model, world_size=ranks):
        assert found == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(scores, output, rtol=1e-4, atol=1e-5)
        assert without == empty


def refusal_of_evaluation(context: Context, example: dict[str, torch.Tensor]) -> str:
    plan = merak.Plan(pp=2, microbatches=1, cuts=("linear_1",))
    engine = merak.parallelize(
        Reordered(), plan, example, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), loss_fn=lambda y, _: y.mean()
    )
    loss = engine.train_step(example)
    try:
        engine.eval_step(example)
    except CaptureError as error:
        assert engine.train_step(example) != loss  # the engine is as it was
        return str(error)
    return "nothing"


def test_all_ranks_refuse_what_one_has_no_parameters_for(run: Runner) -> None:
    for said in run(refusal_of_evaluation, {"x": torch.ones(3, 4)}, world_size=2):
        assert "layers.0.weight" in said
        assert "Give `cuts`" in said
