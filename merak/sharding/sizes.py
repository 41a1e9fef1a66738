"""Sizes in a lowered graph: numbers, or formulas in the sizes of the batch."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import evaluate_size, symbol_names
from merak.graph.capture import Captured

Size = int | fx.Node


def real_size(size: int, formulas: Mapping[int, torch.SymInt], symbols: dict[str, int]) -> int:
    """What a stand-in, or a product of some, stands for."""
    if size in formulas:
        return evaluate_size(formulas[size], symbols)
    for stand_in in sorted(formulas, reverse=True):
        if size >= stand_in and size % stand_in == 0:
            return evaluate_size(formulas[stand_in], symbols) * real_size(size // stand_in, formulas, symbols)
    return size


class Formula:
    """A size that follows from the batch's. Called by graphs with the sizes that its symbols stand for."""

    def __init__(self, size: torch.SymInt) -> None:
        self._size, self.names = size, symbol_names(size)
        self.__name__, self.__module__ = "size", __name__

    def __call__(self, *sizes: int) -> int:
        return evaluate_size(self._size, dict(zip(self.names, sizes, strict=True)))


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

    def know(self, formulas: dict[int, torch.SymInt]) -> None:
        """What stand-ins stand for."""
        self._formulas = formulas

    def stand_for(self, size: int) -> Size:
        """The size that C++ knows by a number."""
        if size in self._formulas:
            return self.of(self._formulas[size])
        for stand_in in sorted(self._formulas, reverse=True):  # a product of such sizes
            if size >= stand_in and size % stand_in == 0:
                return self.product([self.of(self._formulas[stand_in]), self.stand_for(size // stand_in)])
        return size

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
        number = 1
        result: Size = 1
        for size in sizes:
            if isinstance(size, int):
                number *= size
            else:
                result = size if result == 1 else self._graph.call_function(operator.mul, (result, size))
        if isinstance(result, int):
            return number
        return result if number == 1 else self._graph.call_function(operator.mul, (result, number))
