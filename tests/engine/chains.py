"""A small model, and its training in one process and by a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from merak.engine import Engine, Plan, parallelize

Make = Callable[[Iterable[Any]], torch.optim.Optimizer]
Batch = dict[str, torch.Tensor]
ROWS, WIDTH = 8, 6
HALVES = ("layers.2",)
QUARTERS = ("layers.1", "layers.2", "layers.3")
"""Where stages begin, so that each rank has parameters: the model is so small that one rank would do."""


class Chain(nn.Module):
    """Layers in a row. Its loss is `error`."""

    def __init__(self, layers: int = 4, width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def error(output: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (output - batch["y"]).square().mean()


def batch_of(step: int, width: int = WIDTH) -> Batch:
    """The global batch of a step."""
    numbers = torch.randn(2, ROWS, width, generator=torch.Generator().manual_seed(step))
    return {"x": numbers[0], "y": numbers[1]}


def share_of(plan: Plan, step: int, width: int = WIDTH) -> Batch:
    """This rank's part of it."""
    rank = dist.get_rank() % plan.dp
    return {name: tensor.tensor_split(plan.dp)[rank] for name, tensor in batch_of(step, width).items()}


def engine_of(plan: Plan, make: Make, model: nn.Module | None = None, **more: Any) -> Engine:
    return parallelize(model or Chain(), plan, share_of(plan, 0), optimizer=make, loss_fn=error, **more)


def train(engine: Engine, steps: Iterable[int]) -> None:
    for step in steps:
        engine.train_step(share_of(engine.plan, step))


def values_of(engine: Engine) -> dict[str, torch.Tensor]:
    """A copy of this rank's parameters."""
    return {name: parameter.detach().clone() for name, parameter in engine.parameters.items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    """Whether these have the same names and values, to within a tolerance."""
    close = [torch.allclose(one, right[name], rtol=tolerance, atol=tolerance) for name, one in left.items()]
    return left.keys() == right.keys() and all(close)


def trained_alone(
    make: Make, steps: Iterable[int], before: Callable[[int, nn.Module], None] = lambda *_: None
) -> dict[str, torch.Tensor]:
    """Parameters after the same steps in one process; `before` is called with each step and the model."""
    model = Chain()
    optimizer = make(model.parameters())
    for step in steps:
        before(step, model)
        optimizer.zero_grad()
        batch = batch_of(step)
        error(model(batch["x"]), batch).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
