"""A model whose compute is waited for: to show what communication costs beside the compute of a GPU a host.

It has the tables, the batches, and as many parameters in other layers as one of the models beside it. Those layers
sleep: together as long as a stated device would compute, forward and backward. Each hands its gradient over when its
own share of the backward pass is done, so that communication can go on beside the rest. They stand between the first
table and the others, as an encoder does, and compute next to nothing: a layer multiplies by the mean of its
parameters.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from .task import Batch, Task

LAYERS = 8


class Sleeping(torch.autograd.Function):
    """x * weight.mean(), after some seconds forward and some backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, forward: float, backward: float) -> torch.Tensor:
        time.sleep(forward)
        ctx.save_for_backward(x, weight)
        ctx.seconds = backward
        return x * weight.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        time.sleep(ctx.seconds)
        x, weight = ctx.saved_tensors
        each = (gradients[0] * x).sum() / weight.numel()
        return gradients[0] * weight.mean(), each.expand_as(weight).contiguous(), None, None


class Layer(nn.Module):
    """`forward_seconds`, `backward_seconds`: how long it sleeps."""

    def __init__(self, parameters: int, forward_seconds: float, backward_seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(parameters))
        self.seconds = forward_seconds, backward_seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slept: torch.Tensor = Sleeping.apply(x, self.weight, *self.seconds)
        return slept


class Emulated(nn.Module):
    """See above. The loss is the mean square of what was looked up; of the first table, of the mean of its rows, after
    the layers."""

    def __init__(self, like: Task, forward_ms: float, backward_ms: float) -> None:
        super().__init__()
        self.ids = like.ids
        tables = like.tables()
        self.tables = nn.ModuleDict(
            {_key(name): nn.Embedding(table.num_embeddings, table.embedding_dim) for name, table in tables.items()}
        )
        others = sum(parameter.numel() for parameter in like.model.parameters())
        others -= sum(table.weight.numel() for table in tables.values())
        seconds = forward_ms / LAYERS / 1e3, backward_ms / LAYERS / 1e3
        self.layers = nn.Sequential(*(Layer(-(-others // LAYERS), *seconds) for _ in range(LAYERS)))

    def forward(self, batch: Batch) -> torch.Tensor:
        loss = torch.zeros(())
        for place, (name, ids) in enumerate(self.ids(batch).items()):
            rows = self.tables[_key(name)](ids)
            loss = loss + (rows if place > 0 else self.layers(rows.flatten(0, -2).mean(0))).square().mean()
        return loss


def _key(table: str) -> str:
    return table.replace(".", "_")


def task(like: Task, forward_ms: float, backward_ms: float) -> Task:
    """That of another model, with emulated compute."""

    def ids(batch: Batch) -> dict[str, torch.Tensor]:
        return {f"tables.{_key(name)}": of_table for name, of_table in like.ids(batch).items()}

    return Task(Emulated(like, forward_ms, backward_ms), like.words, like.draw, ids)
