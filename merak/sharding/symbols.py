"""Chunks of sizes that vary: symbols of their own.

What a rank has of s rows is max(0, min(ceil(s / ranks), s - rank * ceil(s / ranks))). In that form every size that is
made of it is a formula that torch takes seconds to reason about. As a symbol it is a size like any other; what it
stands for is worked out where a batch's sizes are known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from merak._torch_graphs import formula_of, new_symbol

_EXAMPLES = (100153, 100169, 100183, 100189, 100193, 100207, 100213, 100237, 100267, 100271)
"""What symbols are in the example: no size is another's by chance."""

Sizes = dict[str, int]


class ChunkSymbols:
    """The symbols of one graph.

    Attributes:
        sizes: by name, what it stands for, in the order in which they were made.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, Callable[[Sizes], int]] = {}
        self._made: dict[tuple[str, int, int], torch.SymInt] = {}

    def chunk(self, size: torch.SymInt, ranks: int, rank: int) -> torch.SymInt:
        """What a rank has of a size."""
        key = str(size), ranks, rank
        if key not in self._made:
            example = _EXAMPLES[len(self._made) % len(_EXAMPLES)] + 1000000 * (len(self._made) // len(_EXAMPLES))
            self._made[key] = new_symbol(size, example)
            whole = formula_of(size)
            self.sizes[str(self._made[key])] = lambda sizes: _chunk_of_number(whole(sizes), ranks, rank)
        return self._made[key]


_current: list[ChunkSymbols] = []


@contextlib.contextmanager
def chunk_symbols() -> Iterator[ChunkSymbols]:
    """Within, chunks of symbolic sizes are symbols."""
    _current.append(ChunkSymbols())
    try:
        yield _current[-1]
    finally:
        _current.pop()


def chunk_of(size: Any, ranks: int, rank: int) -> Any:
    """How much a rank has of a size. Of a symbolic one a symbol, or a formula where nobody asked for symbols."""
    if isinstance(size, int):
        return _chunk_of_number(size, ranks, rank)
    if _current:
        return _current[-1].chunk(size, ranks, rank)
    chunk = -(-size // ranks)
    return torch.sym_max(0, torch.sym_min(chunk, size - rank * chunk))


def _chunk_of_number(size: int, ranks: int, rank: int) -> int:
    chunk = -(-size // ranks)
    return max(0, min(chunk, size - rank * chunk))
