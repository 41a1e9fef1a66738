"""Computing in less than float32: autocast, and the scale that keeps gradients of float16 from vanishing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from merak.planner.plan import Precision, autocast_dtype


def autocast(precision: Precision, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """A context for forwards."""
    dtype = autocast_dtype(precision)
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype)


@dataclass
class LossScale:
    """The factor on the loss, as torch's `GradScaler` moves it: halved after a step with an overflow, doubled after so
    many without. All ranks see the same norms, and so the same overflows.

    Attributes:
        value: the factor; 1 for good where gradients need none.
        steady: steps since it changed.
    """

    value: float = 1.0
    steady: int = 0
    growth_interval: int = 2000
    moves: bool = False

    @staticmethod
    def for_precision(precision: Precision) -> LossScale:
        """The one to begin with."""
        return LossScale(65536.0, moves=True) if precision == "fp16" else LossScale()

    def update(self, norm: float) -> bool:
        """Takes note of a step's norm of gradients; whether the step counts."""
        if not self.moves:
            return True
        if not math.isfinite(norm):
            self.value, self.steady = self.value / 2, 0
            return False
        self.steady += 1
        if self.steady == self.growth_interval:
            self.value, self.steady = self.value * 2, 0
        return True
