"""torch.distributed.pipelining over the backend: the losses and gradients of the model in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from tests.backend import models
from tests.backend.harness import Context

MICROBATCHES = 4
SCHEDULES: dict[str, Any] = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B, "Interleaved": ScheduleInterleaved1F1B}


def whole_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(*[nn.Sequential(nn.Linear(12, 12), nn.Tanh()) for _ in range(8)])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x, _ = next(models.batches(0, 1, rows=2 * MICROBATCHES, features=12))
    return x, x.flip(1)


def gradients(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def run_pipeline(context: Context, schedule: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """This rank's part of the gradients and, on the last rank, the losses of the microbatches."""
    model = whole_model()
    per_rank = 2 if schedule == "Interleaved" else 1
    count = per_rank * context.world_size
    size = len(model) // count
    mine = range(context.rank, count, context.world_size)
    parts = {index: model[index * size : (index + 1) * size] for index in mine}
    stages = [PipelineStage(part, index, count, torch.device("cpu")) for index, part in parts.items()]
    timetable = SCHEDULES[schedule](stages if per_rank > 1 else stages[0], MICROBATCHES, loss_fn=nn.functional.mse_loss)
    x, y = batch()
    losses: list[torch.Tensor] = []
    first, last = 0 in parts, count - 1 in parts
    timetable.step(*([x] if first else []), **({"target": y, "losses": losses} if last else {}))
    grads: dict[str, torch.Tensor] = {}
    for index, part in parts.items():
        for position, module in enumerate(part):
            grads |= gradients(module, f"{index * size + position}.")
    return [loss.item() for loss in losses], grads


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pipeline_equals_one_process(run: Callable[..., list[Any]], schedule: str, world_size: int) -> None:
    results = run(run_pipeline, schedule, world_size=world_size)
    model, (x, y) = whole_model(), batch()
    losses = [
        nn.functional.mse_loss(model(part), target)
        for part, target in zip(x.chunk(MICROBATCHES), y.chunk(MICROBATCHES), strict=True)
    ]
    (sum(losses[1:], losses[0]) / MICROBATCHES).backward()
    torch.testing.assert_close(results[-1][0], [loss.item() for loss in losses])
    got = {name: grad for _, part in results for name, grad in part.items()}
    torch.testing.assert_close(got, gradients(model))
