"""A language model whose compute is waited for: to show what communication costs beside the compute of a GPU a host.

The tables are those of `lstm`, and so are the batches. Between them stand layers that sleep: as long as a stated device
would compute, in the forward and in the backward pass. Each has as many parameters as it says, whose gradients it hands
over when its own share of the backward pass is done, so that communication can go on beside the rest of it. What is
computed is next to nothing: a layer multiplies by the mean of its parameters.

                       published                     here
    parameters         835 M                         30.4 M
    of dense layers    2.7 %                         2.7 %, in 8 layers of 102,400
    a rank's batch                                   as of `lstm`
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from . import lstm
from .task import Batch, Task

LAYERS, PARAMETERS = 8, 102_400


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

    def __init__(self, forward_seconds: float, backward_seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(PARAMETERS))
        self.seconds = forward_seconds, backward_seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slept: torch.Tensor = Sleeping.apply(x, self.weight, *self.seconds)
        return slept


class EmulatedLanguageModel(nn.Module):
    """See above. The score of a word is the product of its row and the mean of the words of its stream."""

    def __init__(self, rows: int, forward_ms: float, backward_ms: float) -> None:
        super().__init__()
        self.input = nn.Embedding(rows, lstm.WIDTH)
        seconds = forward_ms / LAYERS / 1e3, backward_ms / LAYERS / 1e3
        self.layers = nn.Sequential(*(Layer(*seconds) for _ in range(LAYERS)))
        self.output = nn.Embedding(rows, lstm.WIDTH)

    def forward(self, batch: Batch) -> torch.Tensor:
        contexts = self.layers(self.input(batch["words"]).mean(1))
        rows = self.output(lstm.scored(batch))
        of_targets, of_negatives = rows.split([batch["targets"].numel(), len(batch["negatives"])])
        wanted = (of_targets.unflatten(0, batch["targets"].shape) * contexts[:, None]).sum(-1)
        return F.softplus(-wanted).mean() + F.softplus(contexts @ of_negatives.T).mean()


def task(divisor: int, forward_ms: float, backward_ms: float) -> Task:
    like = lstm.task(divisor)
    rows = lstm.ROWS // divisor
    return Task(EmulatedLanguageModel(rows, forward_ms, backward_ms), like.words, like.draw, like.ids)
