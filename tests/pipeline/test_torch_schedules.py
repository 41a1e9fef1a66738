"""merak's orders, run by torch's pipelining over merak's backend: the gradients of the model in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage

from merak.pipeline import Schedule, torch_schedule
from tests.backend import models
from tests.backend.harness import Context

MICROBATCHES = 5


def whole_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(*[nn.Sequential(nn.Linear(12, 12), nn.Tanh()) for _ in range(8)])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x, _ = next(models.batches(0, 1, rows=2 * MICROBATCHES, features=12))
    return x, x.flip(1)


def gradients(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def stages_of(context: Context, kind: str) -> dict[int, PipelineStage]:
    own = Schedule.make(kind, ranks=context.world_size, microbatches=MICROBATCHES)
    model, size = whole_model(), 8 // own.n_stages
    parts = {index: model[index * size : (index + 1) * size] for index in own.stages_of(context.rank)}
    return {i: PipelineStage(part, i, own.n_stages, torch.device("cpu")) for i, part in parts.items()}


def run_pipeline(context: Context, kind: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """This rank's part of the gradients and, where the last stage is, the losses of the micro-batches."""
    stages = stages_of(context, kind)
    count = next(iter(stages.values())).num_stages
    schedule = torch_schedule(kind, list(stages.values()), MICROBATCHES, nn.functional.mse_loss)
    x, y = batch()
    losses: list[torch.Tensor] = []
    schedule.step(*([x] if 0 in stages else []), **({"target": y, "losses": losses} if count - 1 in stages else {}))
    grads: dict[str, torch.Tensor] = {}
    for index, stage in stages.items():
        for position, module in enumerate(stage.submod.children()):
            grads |= gradients(module, f"{index * 8 // count + position}.")
    return [loss.item() for loss in losses], grads


@pytest.mark.parametrize("kind", ["eager", "eager-delayed", "shifted", "zbv", "1f1b"])
def test_gradients_are_those_of_one_process(run: Callable[..., list[Any]], kind: str) -> None:
    results = run(run_pipeline, kind, world_size=2)
    model, (x, y) = whole_model(), batch()
    losses = [
        nn.functional.mse_loss(model(part), target)
        for part, target in zip(x.chunk(MICROBATCHES), y.chunk(MICROBATCHES), strict=True)
    ]
    (sum(losses[1:], losses[0]) / MICROBATCHES).backward()
    torch.testing.assert_close(max(results, key=lambda result: len(result[0]))[0], [loss.item() for loss in losses])
    got = {name: grad for _, part in results for name, grad in part.items()}
    torch.testing.assert_close(got, gradients(model))


def refusals(context: Context) -> list[str]:
    stage = next(iter(stages_of(context, "eager").values()))
    wrong = {
        "shifted": (Schedule.make("shifted", stages=2, microbatches=4), [stage], 4),
        "three": (Schedule.make("eager", stages=3, microbatches=4), [stage], 4),
        "count": (Schedule.make("eager", stages=2, microbatches=4), [stage], 5),
        "none": ("eager", [], 4),
    }
    messages = []
    for schedule, stages, microbatches in wrong.values():
        with pytest.raises(ValueError, match=r"schedule|stage") as refused:
            torch_schedule(schedule, stages, microbatches, nn.functional.mse_loss)
        messages.append(str(refused.value))
    return messages


def test_what_torch_cannot_run_is_refused(run: Callable[..., list[Any]]) -> None:
    recompute, three, count, none = run(refusals, world_size=2)[0]
    assert "torch's schedules have no recompute" in recompute
    assert "3 stages on 3 ranks, but there are 2 stages on 2 ranks" in three
    assert "4 micro-batches, not 5" in count
    assert "at least one" in none
