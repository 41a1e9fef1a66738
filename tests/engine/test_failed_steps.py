"""What is refused before anything moves leaves an engine as it was; a step that fails half way is its last."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import merak
from merak.engine import Engine
from merak.pipeline.stage_runner import StageRunner
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]
Batch = dict[str, torch.Tensor]


class Regression(nn.Module):
    """Two layers and a loss, which may be one that does not add up."""

    def __init__(self, adds_up: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)
        self.adds_up = adds_up

    def forward(self, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The loss."""
        error = (self.second(self.first(x * 2.0).tanh()) - y).square()
        if scale is not None:
            error = error * scale
        return {"loss": error.mean() if self.adds_up else error.mean().sqrt()}


def batch(rows: int = 4) -> Batch:
    random = torch.Generator().manual_seed(rows)
    return {"x": torch.randn(rows, 4, generator=random), "y": torch.randn(rows, 1, generator=random)}


def engine_of(plan: merak.Plan, adds_up: bool = True) -> Engine:
    return merak.parallelize(
        Regression(adds_up), plan, batch(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    )


def said(do: Callable[[], Any]) -> str:
    try:
        return str(do())
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


# Refusals ------------------------------------------------------------------------------------------------------------


def refusals(context: Context, plan: merak.Plan) -> tuple[list[str], list[float]]:
    """What is said of batches that do not fit replica 0, or all, and losses before and behind."""
    engine, good = engine_of(plan), batch()
    mine = engine.dp_rank == 0
    double = good | {"x": good["x"].double()}
    wrong = [double if mine else good, {"x": good["x"]}, good | {"x": torch.randn(4, 5)}]
    losses = [engine.train_step(good)]
    texts = [said(lambda one=one: engine.train_step(one)) for one in wrong]
    texts.append(said(lambda: engine.eval_step(double)))
    losses.append(engine.train_step(good))
    narrow = good | {"y": good["y"].round().int()}
    losses += [engine.train_step(narrow), engine.train_step(good | {"y": narrow["y"].short()})]
    return texts, losses


def test_refusals_reach_all_ranks_and_change_nothing(run: Runner) -> None:
    plan = merak.Plan(dp=2, pp=2, microbatches=2)
    for rank, (texts, losses) in enumerate(run(refusals, plan, world_size=4)):
        dtype, missing, width, evaluation = texts
        words = (
            "batch's x is torch.float64, and was torch.float32 in the example that the model was captured with: give"
        )
        assert (words if rank % 2 == 0 else "the batches of 2 other ranks do not fit") in dtype
        assert "x.to(torch.float32)" in evaluation
        assert "y: is missing" in missing
        assert "x: dimension 1 is 5 and must be 4" in width
        assert losses[1] == losses[0]
        assert losses[3] == losses[2] != losses[0]


# Steps that fail half way --------------------------------------------------------------------------------------------


def after_a_failure(context: Context, training: bool) -> list[str]:
    """What steps say, of which one fails on rank 1."""
    engine = engine_of(merak.Plan(pp=2, microbatches=2))
    texts = [said(lambda: "well" if engine.train_step(batch()) else "")]
    failing = mock.patch.object(StageRunner, "forward", side_effect=ArithmeticError("out of luck"))
    if context.rank == 1:
        failing.start()
    steps = (engine.train_step, engine.eval_step, engine.forward)
    texts.append(said(lambda: steps[0 if training else 1](batch())))
    if context.rank == 1:
        failing.stop()
    return [*texts, *(said(lambda step=step: step(batch())) for step in steps)]


@pytest.mark.parametrize("training", [True, False])
def test_an_engine_whose_step_failed_says_so(run: Runner, training: bool) -> None:
    first, second = run(after_a_failure, training, world_size=2)
    assert first[0] == second[0] == "well"
    assert "out of luck" in second[1]
    for texts in (first, second):
        for text in texts[2:]:
            assert text.startswith("RuntimeError: this engine cannot go on: an earlier step of it failed half way")
            assert "load the last checkpoint" in text
    assert all("out of luck" in text for text in [*first[1:], *second[2:]])


# Losses that do not add up -------------------------------------------------------------------------------------------


def warned(context: Context, plan: merak.Plan, adds_up: bool) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine_of(plan, adds_up)
    return [str(one.message) for one in caught if "docs/graph.md" in str(one.message)]


def test_a_loss_that_is_averaged_is_warned_of_once(run: Runner) -> None:
    for plan, adds_up in ((merak.Plan(pp=2, microbatches=2), True), (merak.Plan(pp=2, microbatches=1), False)):
        assert run(warned, plan, adds_up, world_size=2) == [[], []]
    for plan in (merak.Plan(pp=2, microbatches=2), merak.Plan(dp=2, microbatches=1)):
        (text,), nothing = run(warned, plan, False, world_size=2)
        assert nothing == []
        assert "because of sqrt" in text
