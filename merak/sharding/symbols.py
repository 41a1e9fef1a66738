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
    """The symbols of one graph."""

    def __init__(self) -> None:
        self._made: list[tuple[torch.SymInt, int, int, torch.SymInt]] = []

    def chunk(self, size: torch.SymInt, ranks: int, rank: int) -> torch.SymInt:
        """What a rank has of a size."""
        for known, of, number, made in self._made:
            # In words as of now: of two symbols that torch has found to be equal since, one stands for the other.
            if (str(known), of, number) == (str(size), ranks, rank):
                return made
        example = _EXAMPLES[len(self._made) % len(_EXAMPLES)] + 1000000 * (len(self._made) // len(_EXAMPLES))
        chunk: torch.SymInt = new_symbol(size, example)
        self._made.append((size, ranks, rank, chunk))
        return chunk

    @property
    def sizes(self) -> dict[str, Callable[[Sizes], int]]:
        """By name, what each stands for, in the order in which they were made: in the symbols that are left by now."""
        return {str(chunk): _chunk_formula(size, ranks, rank) for size, ranks, rank, chunk in self._made}


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


def _chunk_formula(size: torch.SymInt, ranks: int, rank: int) -> Callable[[Sizes], int]:
    whole = formula_of(size)
    return lambda sizes: _chunk_of_number(whole(sizes), ranks, rank)


def _chunk_of_number(size: int, ranks: int, rank: int) -> int:
    chunk = -(-size // ranks)
    return max(0, min(chunk, size - rank * chunk))
