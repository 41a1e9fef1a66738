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
            self.sizes[str(self._made[key])] = _chunk_of(formula_of(size), ranks, rank)
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


def symbolic_chunk(size: torch.SymInt, ranks: int, rank: int) -> Any:
    """What a rank has of a symbolic size: a symbol, or a formula where nobody asked for symbols."""
    if _current:
        return _current[-1].chunk(size, ranks, rank)
    chunk = -(-size // ranks)
    return torch.sym_max(0, torch.sym_min(chunk, size - rank * chunk))


def _chunk_of(whole: Callable[[Sizes], int], ranks: int, rank: int) -> Callable[[Sizes], int]:
    def chunk(sizes: Sizes) -> int:
        size = whole(sizes)
        most = -(-size // ranks)
        return max(0, min(most, size - rank * most))

    return chunk
