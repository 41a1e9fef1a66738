"""The gradients that are measured: of an embedding table, after a step on tokens drawn from a Zipf distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Table:
    """A table and what a rank looks up in a step.

    Attributes:
        rows, columns: of the table, float32.
        tokens: that a rank draws, with replacement; row i has a probability in proportion to 1 / (i + 1).
        shuffled: whether the frequent rows are spread over the table, or come first as in a sorted vocabulary.
        density: the share of rows that a rank has, each once, drawn evenly; then tokens mean nothing.
    """

    rows: int
    columns: int
    tokens: int
    shuffled: bool = False
    density: float | None = None

    @property
    def name(self) -> str:
        if self.density is not None:
            return f"{self.rows} x {self.columns}, density {self.density:g}"
        order = ", shuffled" if self.shuffled else ""
        return f"{self.rows} x {self.columns}, {self.tokens} tokens a rank{order}"

    def gradient(self, rank: int) -> torch.Tensor:
        """The uncoalesced gradient that `nn.Embedding(sparse=True)` makes; values are small integers, so that sums do
        not depend on their order."""
        random = np.random.default_rng(rank)
        ids = self._draw(random)
        values = torch.from_numpy(random.integers(-8, 9, (len(ids), self.columns)).astype(np.float32))
        indices = torch.from_numpy(ids[None])
        return torch.sparse_coo_tensor(indices, values, (self.rows, self.columns), check_invariants=False)

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        if self.density is not None:
            return random.permutation(self.rows)[: max(1, round(self.density * self.rows))]
        weights = 1.0 / np.arange(1, self.rows + 1)
        ids = random.choice(self.rows, size=self.tokens, p=weights / weights.sum())
        if self.shuffled:
            ids = np.random.default_rng(12345).permutation(self.rows)[ids]
        return ids


TABLES = (Table(28_881, 512, 2_048), Table(28_881, 512, 16_384), Table(73_607, 512, 8_192))
