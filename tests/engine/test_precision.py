"""The loss's scale in fp16."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import merak
from merak.engine.precision import LossScale
from tests.backend.harness import Context


def test_the_scale_is_halved_by_an_overflow_and_doubled_after_steps_without() -> None:
    scale = LossScale(8.0, growth_interval=2, moves=True)
    counted = [scale.update(norm) for norm in (1.0, math.inf, 1.0, 1.0, math.nan)]
    assert counted == [True, False, True, True, False]
    assert scale.value == 4.0  # 8, halved, doubled, halved


def weights_after_steps(context: Context, growth_interval: int) -> torch.Tensor:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 4), torch.randn(6, 4)
    engine = merak.parallelize(
        model,
        merak.Plan(precision="fp16"),
        {"input": x},
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
        loss_fn=lambda output, _: output.float().square().mean(),
    )
    engine._scale.value, engine._scale.growth_interval = 256.0, growth_interval
    for _ in range(3):
        engine.train_step({"input": x})
    assert engine._scale.value == (2048.0 if growth_interval == 1 else 256.0)
    return model.weight.detach().clone()


def test_a_step_that_doubles_the_scale_takes_back_the_one_it_had(run: Callable[..., list[Any]]) -> None:
    (doubled,) = run(weights_after_steps, 1, world_size=1)
    (steady,) = run(weights_after_steps, 2000, world_size=1)
    assert torch.allclose(doubled, steady, rtol=1e-2, atol=1e-4)
