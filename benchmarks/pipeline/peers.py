"""A step under the schedules of torch.distributed.pipelining.

Their stages are modules that sleep in an autograd function; a recomputed one is wrapped in `torch.utils.checkpoint`,
and so sleeps its forward again in the backward.

torch's GPipe and 1F1B are loops that wait for what they send. Its *runtime*, made for several stages a rank, does not;
with merak's orders (`merak.pipeline.torch_schedules`) it is the peer that tells the executor from the schedule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.utils.checkpoint import checkpoint

from merak.pipeline.torch_schedules import torch_schedule

from .cases import GPIPE, INTERLEAVED, RANKS, Case, seconds_of, stages_per_rank
from .emulation import CPU, Device, Layer, inputs


class _Sleeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, layer: Layer, kind: str) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer = layer
        return layer.forward(x, weight, kind)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, weight = ctx.saved_tensors  # a checkpointed stage runs its forward again here
        return *ctx.layer.backward(x, weight, gradients[0]), None, None


class SleepingModule(nn.Module):
    """A stage for torch."""

    def __init__(self, layer: Layer, recompute: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.layer, self.recompute, self.kind = layer, recompute, "F"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.recompute:
            return self._sleep(x)
        contexts = contextlib.nullcontext(), self._again()
        slept: torch.Tensor = checkpoint(self._sleep, x, use_reentrant=False, context_fn=lambda: contexts)
        return slept

    def _sleep(self, x: torch.Tensor) -> torch.Tensor:
        slept: torch.Tensor = _Sleeping.apply(x, self.weight, self.layer, self.kind)
        return slept

    @contextlib.contextmanager
    def _again(self) -> Iterator[None]:
        self.kind = "R"
        try:
            yield
        finally:
            self.kind = "F"


class TorchWay:
    """The same order under torch's schedule, or in its runtime."""

    def __init__(
        self, case: Case, order: str, numbers: int, forward_s: float, group: dist.ProcessGroup, *, in_runtime: bool
    ) -> None:
        rank = dist.get_rank(group)
        self.device = Device()
        count = RANKS * stages_per_rank(order)
        seconds = seconds_of(order, forward_s)
        self._modules = {
            index: SleepingModule(Layer(self.device, index, seconds, index == count - 1), case.recompute)
            for index in range(rank, count, RANKS)
        }
        stages = [PipelineStage(module, index, count, CPU, group=group) for index, module in self._modules.items()]
        self._schedule = _schedule(order, stages, case.microbatches, in_runtime)
        self._given: dict[str, Any] = {"return_outputs": False}
        if rank == 0:
            self._given["arg_mbs"] = [(x,) for x in inputs(case.microbatches, numbers)]
        if count - 1 in self._modules:
            self._given["target_mbs"] = [torch.zeros(())] * case.microbatches

    def step(self) -> None:
        self._schedule.step(**self._given)

    def take_gradients(self) -> list[float]:
        found = []
        for module in self._modules.values():
            found.append(0.0 if module.weight.grad is None else float(module.weight.grad))
            module.weight.grad = None
        return found


def _schedule(order: str, stages: list[PipelineStage], microbatches: int, in_runtime: bool) -> Any:
    options: dict[str, Any] = {"loss_fn": lambda loss, _: loss, "scale_grads": False}
    if in_runtime:
        return torch_schedule(order, stages, microbatches, **options)
    if order == INTERLEAVED:
        return ScheduleInterleaved1F1B([*stages], microbatches, **options)
    return (ScheduleGPipe if order == GPIPE else Schedule1F1B)(stages[0], microbatches, **options)
