"""The engine: a model that is trained by many ranks, seen from one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from merak.engine.agreement import add_up
from merak.engine.gradients import Gradients
from merak.engine.layout import Layout
from merak.engine.parameters import Owned
from merak.engine.plan import Plan
from merak.graph.losses import scales
from merak.graph.prepare import Prepared
from merak.graph.randomness import generators_kept
from merak.graph.stages import Stage
from merak.pipeline.executor import Executor, StepOutputs
from merak.pipeline.messages import Messages
from merak.pipeline.microbatches import MicroBatch, bind, split
from merak.pipeline.schedule import Schedule
from merak.pipeline.stage_runner import StageRunner

OptimizerMaker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Engine:
    """Trains. Made by `merak.parallelize`; methods are collective over all ranks.

    Attributes:
        plan: what is run.
        schedule: what each pipeline rank does in a step.
        stages: the graphs of all stages.
        dp_rank, dp_size: which part of the global batch this rank is to be given.
        optimizer: of this rank's parameters.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        prepared: Prepared,
        stages: Sequence[Stage],
        schedule: Schedule,
        owned: Owned,
        optimizer: OptimizerMaker,
        trainable: set[str],
        clip: float | None,
        device: torch.device,
    ) -> None:
        self.plan, self.schedule, self.stages = plan, schedule, list(stages)
        self.dp_rank, self.dp_size = layout.dp_rank, layout.dp
        self._layout, self._prepared, self._owned = layout, prepared, owned
        self._clip, self._device = clip, device
        self._step = 0
        self._parameters = {name: one for name, one in owned.parameters.items() if name in trainable}
        self._gradients = Gradients(
            self._parameters, owned.stages, self._order_of_ends(), layout.replicas, owned.shared
        )
        self.optimizer = optimizer(self._parameters.values())
        self._runners = {
            index: StageRunner(stages[index], self._tensors(prepared), plan.seed)
            for index in schedule.stages_of(layout.pp_rank)
        }
        self._messages = Messages(stages, schedule.stage_to_rank, layout.pipeline, device)
        self._executors: dict[int, Executor] = {}

    def train_step(self, batch: Mapping[str, Any]) -> float:
        """Forward, backward, clipping and the optimizer's step.

        Args:
            batch: what `model(**batch)` takes, of this data-parallel rank; ranks of one replica give the same.

        Returns:
            The mean loss over the global batch, per target that is not ignored; on every rank.
        """
        microbatches = self._microbatches(batch)
        self._gradients.clear()
        seed = torch.ones((), device=self._device)
        with generators_kept(self._device):
            outputs = self._executor(len(microbatches)).step(microbatches, seed, [self._loss])
        self._gradients.finish()
        loss, squares = self._agree(outputs)
        if self._clip is not None:
            self._scale_gradients(self._clip / (squares**0.5 + 1e-6))
        self.optimizer.step()
        self._step += 1
        return loss

    @property
    def _loss(self) -> int:
        loss = self._prepared.captured.loss
        if loss is None:
            raise ValueError("the model's output has no loss: give labels in the batch, or loss_fn to parallelize")
        return loss

    def _microbatches(self, batch: Mapping[str, Any]) -> list[MicroBatch]:
        parts = split(batch, self.plan.microbatches)
        first = self.dp_rank * len(parts)
        terms = self._prepared.terms
        bound = [bind(self._prepared.captured, part, first + i) for i, part in enumerate(parts)]
        counts = [sum(count(one.inputs, one.sizes) for one in bound) if count else 0.0 for count in terms.counts]
        rows = sum(one.rows for one in bound)
        *totals, all_rows = add_up([*counts, rows], self._layout.replicas, self._device)
        for one in bound:
            one.scales = scales(terms, totals, one.rows, int(all_rows))
        return bound

    def _executor(self, microbatches: int) -> Executor:
        if microbatches not in self._executors:
            self._executors[microbatches] = Executor(
                self.schedule, self._layout.pp_rank, self._runners, self._messages, self._gradients.reduce
            )
        return self._executors[microbatches]

    def _agree(self, outputs: StepOutputs) -> tuple[float, float]:
        """The loss, and the sum of squares of all gradients, each parameter's once."""
        loss = sum(float(one[self._loss]) for one in outputs.outputs if self._loss in one)
        squares = 0.0
        if self._clip is not None and self.dp_rank == 0:
            counted = [p.grad for name, p in self._parameters.items() if name in self._owned.counted]
            norms = torch._foreach_norm(counted) if counted else []
            squares = sum(float(norm.double().square()) for norm in norms)
        total, all_squares = add_up([loss, squares], None, self._device)
        return total, all_squares

    def _scale_gradients(self, factor: float) -> None:
        if factor < 1:
            for bucket in self._gradients.buckets:
                bucket.flat.mul_(factor)

    def _order_of_ends(self) -> list[int]:
        """Stages of this rank, in the order in which their gradients are reduced."""
        actions = self.schedule.actions(self._layout.pp_rank)
        return [action.stage for action in actions if action.kind == "REDUCE_GRAD"]

    def _tensors(self, prepared: Prepared) -> dict[tuple[str, str], torch.Tensor]:
        constants = prepared.captured.constants
        return (
            {("parameter", name): tensor for name, tensor in self._owned.parameters.items()}
            | {("buffer", name): tensor for name, tensor in self._owned.buffers.items()}
            | {("constant", name): tensor.to(self._device) for name, tensor in constants.items()}
        )
