"""Emulated compute: what a stage does takes the seconds of a stated device, most of which a rank sleeps.

A stage multiplies by one weight, w = 1: y = w x; the last one gives a micro-batch's loss, half the mean of y squared.
So its arithmetic is next to nothing, but all ways have to get the same gradients of all weights: were the value of one
micro-batch paired with the gradient of another, they would differ. The arithmetic counts as part of the time slept.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

CPU = torch.device("cpu")
_SPUN_SECONDS = 2e-4
"""At the end of a wait: a sleep ends some 100 us late."""


class Span(NamedTuple):
    """When a rank computed what. Seconds, of a clock that all ranks of this machine share."""

    stage: int
    kind: str
    microbatch: int
    begin: float
    end: float


@dataclass
class Device:
    """What one rank computes on; notes when it did what."""

    spans: list[Span] = field(default_factory=list)
    _counts: Counter[tuple[int, str]] = field(default_factory=Counter)

    def begin_step(self) -> None:
        self.spans = []
        self._counts.clear()

    @contextlib.contextmanager
    def busy(self, stage: int, kind: str, seconds: float) -> Iterator[None]:
        """The block, and then a wait, until so many seconds have gone by. Micro-batches come in order."""
        begin = time.perf_counter()
        yield
        wait_until(begin + seconds)
        microbatch = self._counts[stage, kind]
        self._counts[stage, kind] += 1
        self.spans.append(Span(stage, kind, microbatch, begin, time.perf_counter()))


def wait_until(end: float) -> None:
    """Sleeps, and spins at the last."""
    if (rest := end - time.perf_counter()) > _SPUN_SECONDS:
        time.sleep(rest - _SPUN_SECONDS)
    while time.perf_counter() < end:
        pass


@dataclass
class Layer:
    """A stage's compute.

    Attributes:
        seconds: by kind, F, B, I, W and R.
        last: it gives the loss.
    """

    device: Device
    stage: int
    seconds: dict[str, float]
    last: bool

    def forward(self, x: torch.Tensor, weight: torch.Tensor, kind: str = "F") -> torch.Tensor:
        with self.device.busy(self.stage, kind, self.seconds[kind]):
            y = x * weight
            return y.square().mean() / 2 if self.last else y

    def backward(
        self, x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, kind: str = "B"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients of x and of the weight."""
        with self.device.busy(self.stage, kind, self.seconds[kind]):
            if self.last:
                gradient = x * weight * (gradient / x.numel())
            return gradient * weight, torch.dot(gradient, x)


def inputs(microbatches: int, numbers: int) -> list[torch.Tensor]:
    """Of the first stage; those of each micro-batch differ from the others'."""
    return [torch.full((numbers,), (index + 1) / microbatches) for index in range(microbatches)]


def expected_gradient(microbatches: int) -> float:
    """Of each stage's weight, summed over the micro-batches."""
    return sum(((index + 1) / microbatches) ** 2 for index in range(microbatches))
