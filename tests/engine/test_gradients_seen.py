"""What gradients the optimizer sees: none of frozen parameters, and no numbers where the norm is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn

from merak.engine import Plan, parallelize
from tests.backend.harness import Context
from tests.engine.chains import HALVES, QUARTERS, Chain, engine_of, same, share_of, train, trained_alone, values_of

Runner = Callable[..., list[Any]]
STEPS = range(4)
PLANS = {
    "pipeline": Plan(dp=2, pp=2, microbatches=2, cuts=HALVES),
    "zero1": Plan(dp=2, pp=2, microbatches=2, cuts=HALVES, data_parallel="zero1", recompute=1.0),
    "delayed": Plan(dp=2, pp=2, microbatches=2, cuts=QUARTERS, schedule="zbv"),
}


def adam(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-4)


def thaw_every_other(step: int, model: nn.Module) -> None:
    """Frozen in odd steps: a stage's first layer, and with the last one all of another stage's but a bias."""
    for name in ("layers.0", "layers.3"):
        model.get_submodule(name).requires_grad_(step % 2 == 0)
    model.get_parameter("layers.2.weight").requires_grad_(step % 2 == 0)


def train_frozen(context: Context, plan: Plan) -> dict[str, torch.Tensor]:
    model = Chain()
    engine = engine_of(plan, adam, model, clip=1e6)
    for step in STEPS:
        thaw_every_other(step, model)
        train(engine, [step])
    assert all(
        (one.grad is None) != one.requires_grad or plan.data_parallel == "zero1" for one in engine.parameters.values()
    )
    return values_of(engine)


@pytest.mark.parametrize("plan", PLANS)
def test_frozen_parameters_stay_until_they_are_thawed(run: Runner, plan: str) -> None:
    expected = trained_alone(adam, STEPS, thaw_every_other)
    for values in run(train_frozen, PLANS[plan], world_size=4):
        assert same(values, {name: expected[name] for name in values}, 1e-5)


class Tied(nn.Module):
    """First and last layer have one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.layers[3].weight = self.layers[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def freeze_on_one_rank(context: Context) -> tuple[bool, torch.Tensor]:
    model, plan = Tied(), Plan(dp=2, pp=2, microbatches=2, cuts=HALVES)
    engine = engine_of(plan, adam, model)
    before = values_of(engine)["layers.0.weight"]
    model.layers[0].weight.requires_grad_(context.rank != 3)
    train(engine, STEPS)
    after = values_of(engine)
    return torch.equal(before, after["layers.0.weight"]), after["layers.0.weight"]


def test_what_one_rank_has_frozen_is_frozen_on_all(run: Runner) -> None:
    found = run(freeze_on_one_rank, world_size=4)
    assert [is_same for is_same, _ in found] == [True] * 4
    assert all(torch.equal(one, found[0][1]) for _, one in found)


class Two(nn.Module):
    """Two layers of which the loss below spoils one's gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.good, self.bad = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.good(x), self.bad(x)], 1)


def weighted(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (output * batch["weights"]).mean()


def clip_no_numbers(context: Context, spoiled: float, clip: float) -> tuple[list[list[bool]], list[list[bool]]]:
    weights = torch.ones(8, 12)
    weights[:, 6:] = spoiled
    batch = {"x": share_of(Plan(), 0)["x"], "weights": weights}
    model, plain = Two(), Two()
    engine = parallelize(
        model, Plan(), batch, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), loss_fn=weighted, clip=clip
    )
    engine.train_step(batch)
    weighted(plain(batch["x"]), batch).backward()
    if clip < math.inf:  # which asks for the norm alone
        nn.utils.clip_grad_norm_(plain.parameters(), clip)
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    one, other = ([p.isfinite().tolist() for p in either.parameters()] for either in (model, plain))
    return one, other


@pytest.mark.parametrize("clip", [1.0, math.inf])
@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_a_norm_that_is_no_number_clips_as_torch_does(run: Runner, spoiled: float, clip: float) -> None:
    ((found, expected),) = run(clip_no_numbers, spoiled, clip, world_size=1)
    assert found == expected


def thaw_too_late(context: Context) -> list[str]:
    """What is said to a parameter that was frozen when the engine was made; the step that is frozen again runs."""
    model = Chain()
    model.get_parameter("layers.0.weight").requires_grad_(False)
    engine = engine_of(PLANS["pipeline"], adam, model)
    train(engine, [0])
    model.get_parameter("layers.0.weight").requires_grad_()
    said = []
    try:
        train(engine, [1])
    except ValueError as error:
        said.append(str(error))
    model.get_parameter("layers.0.weight").requires_grad_(False)
    train(engine, [1])
    return said


def test_what_was_frozen_from_the_start_cannot_be_thawed(run: Runner) -> None:
    said = run(thaw_too_late, world_size=4)
    assert all(len(one) == 1 for one in said), "all ranks refuse"
    assert any("layers.0.weight had no gradient" in text for one in said for text in one)
