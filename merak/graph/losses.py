"""The loss of a batch as a sum over micro-batches.

A model's loss is a mean over its targets. The mean of the micro-batches' means is another number where they have
different counts of targets that are not ignored, so the loss is taken apart into *terms*:

    loss = sum over terms of coefficient * term

- A *mean* (cross entropy, squared error, ..., or a quotient whose divisor depends on the batch alone) is a sum over its
  targets divided by their count. The micro-batch computes its sum times a *scale*, one over the count of the whole
  batch over all data-parallel ranks, which is known before the step begins. The shares add up to the exact mean.
- The *rest* (products of means such as the balancing loss of a mixture of experts, a user's formula) does not add up:
  micro-batches are averaged, each with the share of rows that it has as its scale. `Terms.inexact` names it.

Scales are placeholders of the graph, and the graph's loss becomes the micro-batch's share of the batch's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from merak._torch_compat import evaluate_size
from merak.graph.capture import Captured, Source
from merak.graph.dependence import with_dependencies
from merak.graph.normal_form import AliasGroups, erase_unused

_aten = torch.ops.aten
_MEAN, _SUM = 1, 2
_BY_TARGETS = {"cross_entropy_loss", "nll_loss", "nll_loss_nd", "nll_loss2d"}
_BY_ELEMENTS = {
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "soft_margin_loss",
}
_UNCHANGED = {"view", "reshape", "to", "_to_copy", "clone", "alias", "squeeze", "contiguous", "float"}

Count = Callable[[dict[str, torch.Tensor], dict[str, int]], float]
"""From the inputs by path, and the sizes that symbols stand for, to a micro-batch's count."""


@dataclass
class Terms:
    """The terms of a graph's loss.

    Attributes:
        counts: of each scale, what to sum over all micro-batches and divide 1 by. None: its scale is a share of rows.
        inexact: operations whose values are averaged over micro-batches, though that is not the batch's value.
    """

    counts: list[Count | None] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)


def share_loss(captured: Captured, groups: AliasGroups, of_inputs: set[fx.Node]) -> Terms:
    """Makes the graph's loss the share of a micro-batch, in place."""
    terms = Terms()
    if captured.loss is None:
        return terms
    output = captured.graph.output_node()
    values = list(output.args[0])  # type: ignore[arg-type]
    sharing = _Sharing(captured, groups, of_inputs, terms)
    with captured.graph.inserting_before(output):
        values[captured.loss] = sharing.share(values[captured.loss])
    output.args = (values,)
    erase_unused(captured.graph)
    for node in captured.graph.nodes:  # new nodes share memory with nothing
        groups.root.setdefault(node, node)
    return terms


class _Sharing:
    def __init__(self, captured: Captured, groups: AliasGroups, of_inputs: set[fx.Node], terms: Terms) -> None:
        self.captured, self.groups, self.of_inputs, self.terms = captured, groups, of_inputs, terms

    def share(self, node: fx.Node) -> fx.Node:
        """A new node with the micro-batch's share of this one."""
        name = _name(node)
        if name in _UNCHANGED:
            return self._again(node, (self.share(node.args[0]), *node.args[1:]))  # type: ignore[arg-type]
        if name in ("add", "sub") and all(isinstance(arg, fx.Node) for arg in node.args):
            return self._again(node, tuple(self.share(arg) for arg in node.args))  # type: ignore[arg-type]
        if name in ("mul", "div") and not isinstance(node.args[1], fx.Node):
            return self._again(node, (self.share(node.args[0]), *node.args[1:]))  # type: ignore[arg-type]
        if name == "mul" and not isinstance(node.args[0], fx.Node):
            return self._again(node, (node.args[0], self.share(node.args[1])))  # type: ignore[arg-type]
        if name == "neg":
            return self._again(node, (self.share(node.args[0]),))  # type: ignore[arg-type]
        return self._mean(node) or self._quotient(node) or self._rest(node)

    def _mean(self, node: fx.Node) -> fx.Node | None:
        name = _name(node)
        given = _given(node)
        if name not in _BY_TARGETS | _BY_ELEMENTS or given.get("reduction", _MEAN) != _MEAN:
            return None
        target = given["target"]
        if name in _BY_TARGETS:
            if given.get("weight") is not None or target not in self.of_inputs:
                return None
            count = self._count_targets(target, given.get("ignore_index", -100))
        else:
            count = _count_elements(given["self"].meta["val"])
        given["reduction"] = _SUM
        total = self._new(node.target, (), given, like=node)
        return self._scaled(total, count)

    def _quotient(self, node: fx.Node) -> fx.Node | None:
        """A sum over something that only depends on the batch, such as a mask's."""
        if _name(node) != "div" or node.kwargs or node.args[1] not in self.of_inputs:
            return None
        return self._scaled(node.args[0], self._evaluate(node.args[1]))  # type: ignore[arg-type]

    def _rest(self, node: fx.Node) -> fx.Node:
        self.terms.inexact.append(_described(node))
        return self._scaled(node, None)

    def _scaled(self, node: fx.Node, count: Count | None) -> fx.Node:
        number = str(len(self.terms.counts))
        self.terms.counts.append(count)
        last = self.captured.graph.find_nodes(op="placeholder")[-1]
        with self.captured.graph.inserting_after(last):
            scale = self.captured.graph.placeholder(f"scale_{number}")
        scale.meta["val"] = 1.0
        self.captured.sources[scale.name] = Source("scale", number)
        return self._new(_aten.mul.Tensor, (node, scale), {}, like=node)

    def _count_targets(self, target: fx.Node, ignore_index: int) -> Count:
        if target.meta["val"].is_floating_point():  # probabilities of classes
            shape = target.meta["val"].shape
            return _count_elements(target.meta["val"].select(1, 0) if len(shape) > 1 else target.meta["val"].sum())
        values = self._evaluate(target)
        return lambda inputs, sizes: float((values(inputs, sizes) != ignore_index).sum())

    def _evaluate(self, node: fx.Node) -> Callable[[dict[str, torch.Tensor], dict[str, int]], Any]:
        """A function that computes a value of the batch, by a graph of its own."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        needed = with_dependencies({node}, self.groups)
        sources = []
        for old in self.captured.graph.nodes:
            if old in needed:
                copies[old] = graph.node_copy(old, copies.__getitem__)
                if old.op == "placeholder":
                    sources.append(self.captured.sources[old.name])
        graph.output(copies[node])
        module = fx.GraphModule({}, graph)
        constants = self.captured.constants

        def evaluate(inputs: dict[str, torch.Tensor], sizes: dict[str, int]) -> Any:
            with torch.no_grad():
                return module(*(inputs[key] if kind == "input" else constants[key] for kind, key in sources))

        return evaluate

    def _again(self, node: fx.Node, args: tuple[Any, ...]) -> fx.Node:
        return self._new(node.target, args, node.kwargs, like=node)

    def _new(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], like: fx.Node) -> fx.Node:
        new = self.captured.graph.call_function(target, args, kwargs)
        new.meta.update(like.meta)
        return new


def scales(terms: Terms, totals: list[float], rows: int, all_rows: int) -> list[float]:
    """The scales of a micro-batch of so many rows, given the sums of its counts over the whole batch."""
    return [
        rows / all_rows if count is None else (1 / total if total else math.nan)
        for count, total in zip(terms.counts, totals, strict=True)
    ]


def _count_elements(fake: torch.Tensor) -> Count:
    shape = tuple(fake.shape)
    return lambda _, sizes: float(math.prod(evaluate_size(size, sizes) for size in shape))


def _given(node: fx.Node) -> dict[str, Any]:
    """All arguments by name."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _name(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.removeprefix("aten::") if isinstance(target, torch._ops.OpOverload) else ""


def _described(node: fx.Node) -> str:
    trace = str(node.meta.get("stack_trace") or "").strip().splitlines()
    return f"{node.name} ({trace[-1].strip()})" if trace else node.name
