"""A step under merak's executor. Schedule, executor and messages are those that train models; only stages are emulated.

Values really cross, from the executor of one rank to that of another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.distributed as dist

from merak.graph.stages import Stage, Value
from merak.pipeline.crossing import Teams
from merak.pipeline.executor import Executor
from merak.pipeline.messages import Messages
from merak.pipeline.microbatches import MicroBatch

from .cases import Case, seconds_of
from .emulation import CPU, Device, Layer, inputs


class EmulatedRunner:
    """Stands in for `merak.pipeline.stage_runner.StageRunner`; its methods do what that one's do."""

    def __init__(self, stage: Stage, layer: Layer) -> None:
        self.stage, self._layer = stage, layer
        self.gradient = 0.0
        self._weight = torch.ones(())
        self._live: dict[int, torch.Tensor] = {}
        self._left: dict[int, torch.Tensor] = {}

    def forward(
        self,
        key: int,
        microbatch: MicroBatch,
        received: dict[str, torch.Tensor],
        *,
        checkpointed: bool,
        grad: bool,
        needed: Collection[str] | None = None,
    ) -> dict[str, torch.Tensor]:
        x = received[self.stage.received[0].name] if self.stage.received else microbatch.inputs["x"]
        self._live[key] = x
        return {_name(self.stage.index): self._layer.forward(x, self._weight)}

    def recompute(self, key: int) -> None:
        self._layer.forward(self._live[key], self._weight, "R")

    def backward(
        self, key: int, gradients: Mapping[str, torch.Tensor], *, delay_weights: bool = False
    ) -> dict[str, torch.Tensor]:
        given = gradients[_name(self.stage.index)]
        kind = "I" if delay_weights else "B"
        of_x, of_weight = self._layer.backward(self._live.pop(key), self._weight, given, kind)
        if delay_weights:
            self._left[key] = of_weight
        else:
            self.gradient += float(of_weight)
        return {value.name: of_x for value in self.stage.received}

    def backward_weights(self, key: int) -> None:
        with self._layer.device.busy(self.stage.index, "W", self._layer.seconds["W"]):
            self.gradient += float(self._left.pop(key))

    def forget(self) -> None:
        self._live.clear()
        self._left.clear()


class MerakWay:
    """A schedule under merak's executor."""

    def __init__(self, case: Case, kind: str, numbers: int, forward_s: float, group: dist.ProcessGroup) -> None:
        schedule = case.schedule(kind)
        rank = dist.get_rank(group)
        self.device = Device()
        stages = emulated_stages(schedule.n_stages, numbers)
        seconds = seconds_of(kind, forward_s)
        self._runners = {
            index: EmulatedRunner(stages[index], Layer(self.device, index, seconds, index == len(stages) - 1))
            for index in schedule.stages_of(rank)
        }
        messages = Messages(stages, Teams.of_one(schedule.stage_to_rank), group, CPU)
        runners: Any = self._runners
        self._executor = Executor(schedule, rank, runners, messages, reduce=lambda stage: None)
        self._microbatches = [
            MicroBatch(index, 1, {"x": x}, {}, []) for index, x in enumerate(inputs(case.microbatches, numbers))
        ]

    def step(self) -> None:
        self._executor.step(self._microbatches, keep=[], loss=0)

    def take_gradients(self) -> list[float]:
        found = [runner.gradient for runner in self._runners.values()]
        for runner in self._runners.values():
            runner.gradient = 0.0
        return found


def emulated_stages(count: int, numbers: int) -> list[Stage]:
    """A chain whose values have so many fp32 numbers; the last stage's is the loss."""
    shape = torch.empty(numbers, device="meta")
    values = [
        Value(_name(stage), stage, (stage + 1,), shape, has_gradient=True, common=_name(stage))
        for stage in range(count - 1)
    ]
    return [
        Stage(
            index=stage,
            segments=(),
            received=tuple(values[stage - 1 : stage]) if stage else (),
            sent=tuple(values[stage : stage + 1]),
            outputs={0: _name(stage)} if stage == count - 1 else {},
            parameters=(),
            buffers=(),
        )
        for stage in range(count)
    ]


def _name(stage: int) -> str:
    return f"y{stage}"
