"""The loss of a batch as a sum over micro-batches.

A model's loss is a mean over its targets. The mean of the micro-batches' means is another number where they have
different counts of targets that are not ignored, so the loss is taken apart into *terms*:

    loss = sum over terms of coefficient * term

- A *sum* over the rows of the batch is the sum of the micro-batches' sums.
- A *mean* (cross entropy, squared error, ..., or a quotient of sums whose divisor depends on the batch alone) is a sum
  over its targets divided by their count. The micro-batch computes its sum times a *scale*, one over the count of the
  whole batch over all data-parallel ranks, which is known before the step begins. The shares add up to the exact mean.
- The *rest* (products of means such as the balancing loss of a mixture of experts, a user's formula) does not add up:
  micro-batches are averaged, each with the share of rows that it has as its scale. `Terms.inexact` names it.

Scales are placeholders of the graph, and the graph's loss becomes the micro-batch's share of the batch's loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from merak._torch_compat import evaluate_size, symbols_of_size
from merak.graph.capture import Captured, Source
from merak.graph.dependence import with_dependencies
from merak.graph.normal_form import AliasGroups, erase_unused
from merak.graph.randomness import operation_of

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
    "hinge_embedding_loss",
    "kl_div",
}
_SUMS = {"default": _aten.sum.default, "dim": _aten.sum.dim_IntList}
_GUARDS_OF_ZERO = {"clamp", "clamp_min"}
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
    values[captured.loss] = sharing.share_of_loss(values[captured.loss])
    output.args = (values,)
    groups.find(captured)
    erase_unused(captured.graph, groups)
    groups.find(captured)
    return terms


class _Sharing:
    def __init__(self, captured: Captured, groups: AliasGroups, of_inputs: set[fx.Node], terms: Terms) -> None:
        self.captured, self.groups, self.of_inputs, self.terms = captured, groups, of_inputs, terms
        self.rows = Rows(captured)

    def share_of_loss(self, node: fx.Node) -> fx.Node:
        """The share, as a tensor without dimensions."""
        share = self.share(node)
        return self._new(_aten.reshape.default, (share, []), {}, behind=share) if node.meta["val"].dim() else share

    def share(self, node: fx.Node) -> fx.Node:
        """The micro-batch's share of a value: another node, right behind it, before anything is written to it."""
        name = _name(node)
        args = node.args
        if name in _UNCHANGED or name == "neg":
            return self._again(node, (self.share(args[0]), *args[1:]))  # type: ignore[arg-type]
        if name in ("add", "sub"):
            return self._sum(node)
        if name in ("mul", "div") and self._is_coefficient(args[1]):
            return self._again(node, (self.share(args[0]), *args[1:]))  # type: ignore[arg-type]
        if name == "mul" and self._is_coefficient(args[0]):
            return self._again(node, (args[0], self.share(args[1])))  # type: ignore[arg-type]
        if self._is_additive(node):
            return self._new(_aten.clone.default, (node,), {}, behind=node)
        return self._mean(node) or self._quotient(node) or self._rest(node)

    def _sum(self, node: fx.Node) -> fx.Node:
        first, second = node.args
        if not isinstance(second, fx.Node):
            if second == 0:  # where Python's sum begins
                return self.share(first)  # type: ignore[arg-type]
            kwargs = {"alpha": self._scale(None)}
            return self._new(_out_of_place(node), (self.share(first), second), kwargs, behind=node)  # type: ignore[arg-type]
        return self._again(node, (self.share(first), self.share(second)))  # type: ignore[arg-type]

    def _mean(self, node: fx.Node) -> fx.Node | None:
        name, given = _name(node), _given(node)
        if name == "mean" and node.meta["val"].numel() == 1 and self.rows.are_in(given["self"].meta["val"]):
            total = self._new(_SUMS[operation_of(node)._overloadname], (), given, behind=node)  # type: ignore[union-attr]
            return self._scaled(total, _count_elements(given["self"].meta["val"]))
        if name not in _BY_TARGETS | _BY_ELEMENTS or given.get("reduction", _MEAN) != _MEAN:
            return None
        if not self.rows.are_in(given["self"].meta["val"]):
            return None
        count = self._count_targets(node) if name in _BY_TARGETS else _count_elements(given["self"].meta["val"])
        if count is None:
            return None
        given["reduction"] = _SUM
        return self._scaled(self._new(node.target, (), given, behind=node), count)

    def _quotient(self, node: fx.Node) -> fx.Node | None:
        """A sum over rows divided by another, which depends on the batch alone, such as a mask's."""
        if _name(node) != "div" or node.kwargs or not self._is_additive(node.args[0]):
            return None
        count = self._count(node.args[1])
        return None if count is None else self._scaled(node.args[0], count, behind=node)  # type: ignore[arg-type]

    def _rest(self, node: fx.Node) -> fx.Node:
        if self._depends_on(node, "input"):  # else all micro-batches have the same value
            self.terms.inexact.append(_described(node))
        return self._scaled(node, None)

    def _is_additive(self, node: Any) -> bool:
        """Whether the value for a batch is the sum of the values for its parts."""
        if not isinstance(node, fx.Node) or not self.rows.known:
            return False
        name, given = _name(node), _given(node)
        if name == "sum" or (name in _BY_TARGETS | _BY_ELEMENTS and given.get("reduction") == _SUM):
            return self.rows.are_in(given["self"].meta["val"]) and node.meta["val"].numel() == 1
        if name in ("add", "sub"):
            return all(self._is_additive(argument) for argument in node.args[:2])
        if name in ("mul", "div") and self._is_coefficient(node.args[1]):
            return self._is_additive(node.args[0])
        return name in _UNCHANGED | {"neg"} and self._is_additive(node.args[0])

    def _is_coefficient(self, value: Any) -> bool:
        """Whether it is the same for all micro-batches: a number, or made of no more than those of the batch."""
        if not isinstance(value, fx.Node):
            return True
        if isinstance(value.meta.get("val"), torch.SymInt):
            return not self.rows.are_in_size(value.meta["val"])
        return value in self.of_inputs and not self._depends_on(value, "input", with_rows=True)

    def _depends_on(self, node: fx.Node, kind: str, with_rows: bool = False) -> bool:
        return any(
            needed.op == "placeholder"
            and self.captured.sources[needed.name].kind == kind
            and (not with_rows or needed.meta["val"].dim() > 0)
            for needed in with_dependencies({node}, self.groups)
        )

    def _count(self, divisor: Any) -> Count | None:
        """A micro-batch's part of a divisor; None if that of a batch is not the sum of those of its parts."""
        if not isinstance(divisor, fx.Node):
            return None
        size = divisor.meta.get("val")
        if isinstance(size, torch.SymInt):
            return (lambda _, sizes: float(evaluate_size(size, sizes))) if self.rows.are_in_size(size) else None
        while _is_guard_of_zero(divisor):
            divisor = divisor.args[0]
        return self._evaluate(divisor) if self._is_additive(divisor) else None

    def _scaled(self, node: fx.Node, count: Count | None, behind: fx.Node | None = None) -> fx.Node:
        return self._new(_aten.mul.Tensor, (node, self._scale(count)), {}, behind=behind or node, like=node)

    def _scale(self, count: Count | None) -> fx.Node:
        number = str(len(self.terms.counts))
        self.terms.counts.append(count)
        last = self.captured.graph.find_nodes(op="placeholder")[-1]
        with self.captured.graph.inserting_after(last):
            scale = self.captured.graph.placeholder(f"scale_{number}")
        scale.meta["val"] = 1.0
        self.captured.sources[scale.name] = Source("scale", number)
        return scale

    def _count_targets(self, node: fx.Node) -> Count | None:
        given = _given(node)
        target, ignored = given["target"], given.get("ignore_index", -100)
        if given.get("weight") is not None or target not in self.of_inputs:
            return None
        if target.meta["val"].is_floating_point():  # probabilities of classes
            shape = target.meta["val"].shape
            return _count_elements(target.meta["val"].select(1, 0) if len(shape) > 1 else target.meta["val"].sum())
        values = self._evaluate(target)
        if values is None:
            return None
        size = ignored.meta["val"] if isinstance(ignored, fx.Node) else ignored
        return lambda inputs, sizes: float((values(inputs, sizes) != evaluate_size(size, sizes)).sum())

    def _evaluate(self, node: fx.Node) -> Callable[[dict[str, torch.Tensor], dict[str, int]], Any] | None:
        """A function that computes a value of the batch, by a graph of its own; None if it needs more."""
        needed = with_dependencies({node}, self.groups)
        if (
            node not in self.of_inputs
            or self._depends_on(node, "buffer")
            or any(one.op == "get_attr" for one in needed)
        ):
            return None
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
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
        return self._new(_out_of_place(node), args, dict(node.kwargs), behind=node)

    def _new(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], behind: fx.Node, like: fx.Node | None = None
    ) -> fx.Node:
        with self.captured.graph.inserting_after(behind):
            new = self.captured.graph.call_function(target, args, kwargs)
        new.meta.update((like or behind).meta)
        new.meta["val"] = torch.empty_like(new.meta["val"])  # in memory of its own
        return new


class Rows:
    """Which sizes are so many a row: a batch of n rows has n times as many.

    Attributes:
        known: whether one can tell. Where the model fixes the batch's size, all sizes are taken to be so.
    """

    def __init__(self, captured: Captured) -> None:
        fakes = [fake for fake in captured.inputs.values() if fake.dim()]
        self._symbols = symbols_of_size(fakes[0].shape[0], [fake.shape[0] for fake in fakes]) if fakes else set()
        self.known = bool(self._symbols)

    def are_in(self, fake: torch.Tensor) -> bool:
        """Whether a tensor has so many elements a row."""
        return self.are_in_size(math.prod(fake.shape))

    def are_in_size(self, size: int | torch.SymInt) -> bool:
        """Whether a number is so many a row."""
        few, many = (self._evaluate(size, rows) for rows in (6, 12))
        return not self.known or 0 < many == 2 * few

    def _evaluate(self, size: int | torch.SymInt, rows: int) -> int:
        return evaluate_size(size, defaultdict(lambda: 24, dict.fromkeys(self._symbols, rows)))


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
    operation = operation_of(node)
    names = [argument.name for argument in operation._schema.arguments] if operation else []
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _name(node: fx.Node) -> str:
    """Of the operation, the same for one in place; empty for what is not PyTorch's."""
    operation = operation_of(node)
    if operation is None:
        return ""
    name: str = operation._schema.name.removeprefix("aten::")
    return name.rstrip("_") if operation._schema.is_mutable else name


def _out_of_place(node: fx.Node) -> Any:
    operation = operation_of(node)
    assert operation is not None
    return getattr(getattr(_aten, _name(node)), operation._overloadname)


def _is_guard_of_zero(node: fx.Node) -> bool:
    """Such as clamp(min=1), or + 1e-8: counts of whole batches are not zero, and need no guard."""
    operation = operation_of(node)
    if operation is None or operation._schema.is_mutable:
        return False
    if _name(node) == "add":
        return not isinstance(node.args[1], fx.Node)
    return _name(node) in _GUARDS_OF_ZERO and _given(node).get("max") is None


def _described(node: fx.Node) -> str:
    trace = str(node.meta.get("stack_trace") or "").strip().splitlines()
    return f"{node.name} ({trace[-1].strip()})" if trace else node.name
