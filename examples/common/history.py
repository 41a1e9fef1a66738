"""The losses of a run from its first step, through every interruption: they are saved with the checkpoints."""

from __future__ import annotations

import math

import torch

Point = tuple[int, float]  # a step and the loss there


class History:
    """Losses by step. The tensors have the size of the whole run, NaN where nothing has been measured yet."""

    def __init__(self, steps: int) -> None:
        self._train = torch.full((steps,), math.nan, dtype=torch.float64)
        self._validation = torch.full((steps + 1,), math.nan, dtype=torch.float64)

    def add_train(self, step: int, loss: float) -> None:
        """Records the loss of step 1, 2, ..., measured on its batch before the weights were changed."""
        self._train[step - 1] = loss

    def add_validation(self, step: int, loss: float) -> None:
        """Records the validation loss after `step` steps; 0 is before the first."""
        self._validation[step] = loss

    def train(self) -> list[Point]:
        """The training losses measured so far."""
        return [(step + 1, loss) for step, loss in enumerate(self._train.tolist()) if not math.isnan(loss)]

    def validation(self) -> list[Point]:
        """The validation losses measured so far."""
        return [(step, loss) for step, loss in enumerate(self._validation.tolist()) if not math.isnan(loss)]

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors behind it; loading into them in place restores it."""
        return {"train": self._train, "validation": self._validation}
