"""Small models and data for the tests of training: cheap, deterministic, with shapes that divide by nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


class Perceptron(nn.Module):
    """Three linear layers and a batch norm (whose buffers DDP broadcasts)."""

    def __init__(self, width: int = 37) -> None:
        super().__init__()
        self.first = nn.Linear(13, width)
        self.norm = nn.BatchNorm1d(width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.middle(torch.relu(self.norm(self.first(x))))))


class Forked(nn.Module):
    """Uses one of two branches, chosen by the caller: the other's parameters get no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(13, 11)
        self.branches = nn.ModuleList([nn.Linear(11, 3), nn.Linear(11, 3)])

    def forward(self, x: torch.Tensor, branch: int = 0) -> torch.Tensor:
        return self.branches[branch](torch.tanh(self.stem(x)))


class Stack(nn.Module):
    """Equal blocks with a residual connection, for sharding and pipelining block by block."""

    def __init__(self, blocks: int = 3, width: int = 12, hidden: int = 25) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def batches(rank: int, count: int, rows: int = 6, features: int = 13) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`count` batches of (inputs `[rows, features]`, targets `[rows, 3]`) of this rank's own."""
    generator = torch.Generator().manual_seed(100 + rank)
    for _ in range(count):
        yield torch.randn(rows, features, generator=generator), torch.randn(rows, 3, generator=generator)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
