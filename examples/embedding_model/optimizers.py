"""The optimizers: Adam for the dense parameters, and for the tables one that leaves rows without a gradient alone.

SGD and Adagrad change nothing where the gradient is zero, so they do the same with sparse gradients and with dense
ones; SparseAdam, which forgets old gradients only where there are new ones, takes sparse ones alone. Learning rates
fall along a straight line to a tenth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .model import EmbeddingModel
    from .options import Options

TABLE_RATES = {"adagrad": 0.1, "sgd": 50.0, "sparse-adam": 1e-2}
"""The tables' learning rates at the start, by optimizer."""


class Optimizers:
    """Both optimizers of a model."""

    def __init__(self, model: EmbeddingModel, options: Options) -> None:
        rate = options.table_learning_rate or TABLE_RATES[options.table_optimizer]
        self._others = model.others()
        self._clip = options.clip
        self._optimizers = [
            _table_optimizer(options.table_optimizer, model.tables(), rate),
            torch.optim.Adam(self._others, lr=options.learning_rate, fused=True),
        ]
        self._schedules = [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, options.steps) for optimizer in self._optimizers
        ]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def step(self) -> None:
        """Clips the dense gradients, then changes all parameters."""
        nn.utils.clip_grad_norm_(self._others, self._clip)
        for optimizer in self._optimizers:
            optimizer.step()
        for schedule in self._schedules:
            schedule.step()


def _table_optimizer(name: str, tables: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    if name == "adagrad":
        return torch.optim.Adagrad(tables, lr=rate)
    if name == "sgd":
        return torch.optim.SGD(tables, lr=rate)
    return torch.optim.SparseAdam(tables, lr=rate)
