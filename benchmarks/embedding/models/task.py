"""What the benchmark has to know of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A model and what it trains on.

    Attributes:
        model: ``model(batch)`` is the loss. All its `nn.Embedding` modules are tables that a step reads few rows of.
        words: that a rank's batch has.
        draw: of step and rank: the batch, the same whenever it is asked for, and of the same shape for all.
        ids: of a batch: by table, named as ``model.named_modules()`` does, the ids that ``model(batch)`` looks up.
    """

    model: nn.Module
    words: int
    draw: Callable[[int, int], Batch]
    ids: Callable[[Batch], dict[str, torch.Tensor]]

    def tables(self) -> dict[str, nn.Embedding]:
        return {name: module for name, module in self.model.named_modules() if isinstance(module, nn.Embedding)}

    def share_of_tables(self) -> float:
        """Of the parameters, how many are rows of tables."""
        of_tables = sum(table.weight.numel() for table in self.tables().values())
        return of_tables / sum(parameter.numel() for parameter in self.model.parameters())


class Zipf:
    """Words of a text with `rows` different ones: row i has a probability in proportion to 1 / (i + 1)."""

    def __init__(self, rows: int) -> None:
        sums = np.cumsum(1.0 / np.arange(1, rows + 1))
        self._cumulative = sums / sums[-1]

    def draw(self, random: np.random.Generator, *shape: int) -> torch.Tensor:
        """int64 ids, each drawn for itself."""
        return torch.from_numpy(np.searchsorted(self._cumulative, random.random(shape), side="right"))


def generator(step: int, rank: int) -> np.random.Generator:
    """Of a rank's random numbers of a step."""
    return np.random.default_rng((step, rank))


def translation(model: nn.Module, rows: int, sentences: int, length: int) -> Task:
    """Of a model with tables "source" and "target" of so many rows, which foretells what follows each target word."""
    zipf = Zipf(rows)

    def draw(step: int, rank: int) -> Batch:
        random = generator(step, rank)
        source, target = zipf.draw(random, sentences, length), zipf.draw(random, sentences, length + 1)
        return {
            "source": source,
            "target": target[:, :-1].contiguous(),
            "following": target[:, 1:].contiguous(),
        }

    def ids(batch: Batch) -> dict[str, torch.Tensor]:
        return {"source": batch["source"], "target": batch["target"]}

    return Task(model, 2 * sentences * length, draw, ids)
