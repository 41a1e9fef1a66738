"""Sizes in a lowered graph: numbers, or formulas in the sizes of the batch."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import evaluate_size, formula_of, symbol_names
from merak.graph.capture import Captured
from merak.sharding.symbols import chunk_of

Size = int | fx.Node


def factors_of(size: int, formulas: Mapping[int, torch.SymInt]) -> list[int | torch.SymInt]:
    """What a number of C++'s is the product of: what its stand-ins stand for, and a number."""
    if size in formulas:
        return [formulas[size]]
    for stand_in in sorted(formulas, reverse=True):
        if size >= stand_in and size % stand_in == 0:
            return [formulas[stand_in], *factors_of(size // stand_in, formulas)]
    return [size]


def real_size(size: int, formulas: Mapping[int, torch.SymInt], symbols: dict[str, int]) -> int:
    """A number of C++'s, given what the symbols in formulas stand for."""
    return math.prod(evaluate_size(factor, symbols) for factor in factors_of(size, formulas))


class Formula:
    """A size that follows from the batch's. Called by graphs with the sizes that its symbols stand for."""

    def __init__(self, size: torch.SymInt) -> None:
        self.size, self.names, self._evaluate = size, symbol_names(size), formula_of(size)
        self.__name__, self.__module__ = "size", __name__

    def __call__(self, *sizes: int) -> int:
        return self._evaluate(dict(zip(self.names, sizes, strict=True)))


class SizeNodes:
    """Makes nodes for sizes, each once.

    Args:
        graph: where they are made.
        values: of nodes of the captured graph, those of the new one.
    """

    def __init__(self, graph: fx.Graph, captured: Captured, values: dict[fx.Node, Any]) -> None:
        self._graph, self._values = graph, values
        self._of: dict[str, Size] = {}
        self._symbols: dict[str, tuple[fx.Node, int]] = {}
        for node in captured.graph.find_nodes(op="placeholder"):
            if captured.sources[node.name].kind == "input":
                for dim, size in enumerate(node.meta["val"].shape):
                    if not isinstance(size, int):
                        self._symbols.setdefault(str(size), (node, dim))
        self._formulas: dict[int, torch.SymInt] = {}
        self._calls: dict[tuple[Any, ...], fx.Node] = {}

    def know(self, formulas: dict[int, torch.SymInt]) -> None:
        """What stand-ins stand for."""
        self._formulas = formulas

    def stand_for(self, size: int) -> Size:
        """The size that C++ knows by a number."""
        return self.product([self.of(factor) for factor in factors_of(size, self._formulas)])

    def of(self, size: int | torch.SymInt) -> Size:
        """A node for a formula."""
        if isinstance(size, int):
            return size
        key = str(size)
        if key not in self._of:
            names = symbol_names(size)
            if not names:  # the model has fixed it
                return evaluate_size(size, {})
            symbols = [self._symbol(name) for name in names]
            made = symbols[0] if key == names[0] else self._graph.call_function(Formula(size), tuple(symbols))
            self._of[key] = made
            made.meta["val"] = size
        return self._of[key]

    def _symbol(self, name: str) -> fx.Node:
        node, dim = self._symbols[name]
        key = f"{name}!"
        if key not in self._of:
            made = self._graph.call_function(torch.ops.aten.sym_size.int, (self._values[node], dim))
            made.meta["val"] = node.meta["val"].shape[dim]
            self._of[key] = made
        found = self._of[key]
        assert isinstance(found, fx.Node)
        return found

    def product(self, sizes: Sequence[Size]) -> Size:
        """Of all of them."""
        number = math.prod(size for size in sizes if isinstance(size, int))
        factors: list[Size] = [size for size in sizes if not isinstance(size, int)]
        if not factors:
            return number
        if number != 1:
            factors.append(number)
        result = factors[0]
        for factor in factors[1:]:
            result = self._call(operator.mul, result, factor)
        return result

    def chunk(self, size: Size, ranks: int, rank: int) -> Size:
        """Of a size, what a rank has."""
        return chunk_of(size, ranks, rank) if isinstance(size, int) else self._call(chunk_of, size, ranks, rank)

    def _call(self, function: Any, *arguments: Size) -> fx.Node:
        key = function, *arguments
        if key not in self._calls:
            self._calls[key] = self._graph.call_function(function, arguments)
        return self._calls[key]
