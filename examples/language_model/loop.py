"""The training loop: it asks the data for a batch, the engine for a step, and writes down what happened.

It knows nothing of how a step is computed or where the model lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from common.history import History
from common.progress import Display, Speed
from common.world import World

from .checkpoint import Checkpoints
from .data import Batch, DataOrder, training_batch, validation_batches
from .options import Options


class Engine(Protocol):
    """Whatever computes steps. Batches are this replica's slices; losses are means over the global batch."""

    replica: int
    """Which replica of the model this rank belongs to, and gets the slices of."""
    replicas: int

    def train_step(self, batch: Batch) -> float:
        """Learns from a batch; its loss before that."""

    def eval_step(self, batch: Batch) -> float:
        """The loss of a batch."""

    def state(self) -> dict[str, Any]:
        """The tensors that a checkpoint needs."""

    def load_state(self, state: dict[str, Any], step: int) -> None:
        """Goes on after `step` steps with such tensors."""


@dataclass(frozen=True)
class Job:
    """A run with everything that it needs.

    `train` and `validation` are the data, int64 [rows, tokens], the same on all ranks.
    """

    options: Options
    world: World
    engine: Engine
    train: torch.Tensor
    validation: torch.Tensor
    order: DataOrder
    history: History
    checkpoints: Checkpoints

    def run(self, first: int, display: Display) -> int:
        """Trains from step `first` to the end, or to `--stop-at`; the last step done."""
        options = self.options
        last = min(options.steps, options.stop_at or options.steps)
        if first == 0:
            self._validate(0, display)
        speed = Speed()
        for step in range(first + 1, last + 1):
            loss = self._train(step)
            per_second = speed.add(options.global_batch * options.block)
            display.step(step, loss, per_second, self.world.bytes_sent())
            if step % options.evaluate_every == 0 or step == options.steps:
                self._validate(step, display)
            if step % options.checkpoint_every == 0 or step == last:
                self.checkpoints.save(step, self._state())
        return max(first, last)

    def resume(self) -> int:
        """Restores the newest checkpoint, if there is one; the number of steps done."""
        step = self.checkpoints.newest()
        if step:
            state = self._state()
            self.checkpoints.load(step, state)
            self.engine.load_state(state["engine"], step)
        return step

    def _state(self) -> dict[str, Any]:
        return {"engine": self.engine.state(), "order": self.order.state(), "history": self.history.state()}

    def _share(self) -> slice:
        return self.world.share(self.options.global_batch, "--global-batch", self.engine.replica, self.engine.replicas)

    def _train(self, step: int) -> float:
        chosen = self.order.take(self.options.global_batch)[self._share()]
        loss = self.engine.train_step(training_batch(self.train, chosen))
        self.history.add_train(step, loss)
        return loss

    def _validate(self, step: int, display: Display) -> None:
        total, count = 0.0, 0
        for batch, targets in validation_batches(self.validation, self.options.global_batch, self._share()):
            total += self.engine.eval_step(batch) * targets
            count += targets
        self.history.add_validation(step, total / count)
        display.note(f"validation loss after {step} steps: {total / count:.4f}")
