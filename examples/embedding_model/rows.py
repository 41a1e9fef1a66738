"""How many rows of the tables a run's gradients had, counted from its tokens: the same for every reduction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from common.world import World

from .negatives import Negatives
from .streams import Window


@dataclass
class Rows:
    """Of one table, over all steps: `own`, what each rank had, added up, and `union`, what any of them had."""

    columns: int
    own: int = 0
    union: int = 0

    def add(self, shares: list[torch.Tensor]) -> None:
        """Counts a step of which these are the ranks' words."""
        different = [share.unique() for share in shares]
        self.own += sum(map(len, different))
        self.union += len(torch.cat(different).unique())


class RowCount:
    """Counts the rows of both tables."""

    def __init__(self, width: int, streams: int, world: World) -> None:
        self._share = streams // world.size
        self._others = world.size - 1
        self._tables = {"embedding": Rows(width), "classes": Rows(width + 1)}
        self._steps = 0

    def add(self, window: Window, negatives: Negatives) -> None:
        """Counts a step of all ranks."""
        self._steps += 1
        self._tables["embedding"].add(list(window.inputs.split(self._share)))
        targets = window.targets.split(self._share)
        self._tables["classes"].add([torch.cat([share.flatten(), negatives.classes]) for share in targets])

    def budgets(self, compression: float) -> tuple[int, int]:
        """By table, the bytes of a sketch of which every rank sends a `compression`-th of the rows that the exact
        reduction sends, at the steps counted: of k rows a rank and u in the union, k + (n - 2) / n u."""
        ranks, embedding, classes = self._others + 1, self._tables["embedding"], self._tables["classes"]

        def budget(table: Rows) -> int:
            exact = (table.own / ranks + max(ranks - 2, 0) / ranks * table.union) / self._steps
            rows = exact / compression / (2 * self._others / ranks if self._others else 1)
            return max(1, round(rows)) * 4 * table.columns

        return budget(embedding), budget(classes)

    def all_gather_bytes(self) -> int:
        """What all ranks send where every rank sends its rows, float32, and their 8-byte numbers to all others."""
        return sum(self._others * table.own * (4 * table.columns + 8) for table in self._tables.values())

    def report(self) -> dict[str, Any]:
        """Rows a step, by table: the mean over the ranks, and the union."""
        ranks = self._others + 1
        return {
            name: {"rank": table.own / ranks / self._steps, "union": table.union / self._steps}
            for name, table in self._tables.items()
        }
