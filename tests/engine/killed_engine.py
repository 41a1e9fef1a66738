"""An engine for `tests.backend.killed`: of a wide chain of layers, so that ranks are mostly waiting for each other."""

from __future__ import annotations

import functools

import torch
from torch import nn

import merak

WIDTH, ROWS = 64, 512


@functools.cache
def engine_of(size: int) -> tuple[merak.engine.Engine, dict[str, torch.Tensor]]:
    """The engine of this process, one stage a rank, and a batch."""
    torch.manual_seed(0)
    model = Chain(2 * size)
    batch = {"x": torch.randn(ROWS, WIDTH)}
    plan = merak.Plan(pp=size, microbatches=2 * size)
    engine = merak.parallelize(
        model, plan, batch, optimizer=torch.optim.SGD, loss_fn=lambda out, _: out.square().mean()
    )
    return engine, batch


class Chain(nn.Module):
    """Layers in a row."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out
