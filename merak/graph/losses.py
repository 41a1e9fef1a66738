"""The loss of a batch as a sum over micro-batches.

A model's loss is a mean over its targets. The mean of the micro-batches' means is another number where they have
different counts of targets that are not ignored, so the loss is taken apart into *terms*:

    loss = sum over terms of coefficient * term

- A *sum* over the rows of the batch is the sum of the micro-batches' sums.
- A *mean* (cross entropy, squared error, ..., or a quotient of sums whose divisor depends on the batch alone) is a sum
  over its targets divided by their count. The micro-batch computes its sum times a *scale*, one over the count of the
  whole batch over all data-parallel ranks, which is known before the step begins. The shares add up to the exact mean.
  What a quotient does to its count (`clamp(min=1)`, `+ 1e-8`) is done to that of the whole batch.
- The *rest* (products of means such as the balancing loss of a mixture of experts, a user's formula) does not add up:
  micro-batches are averaged, each with the share of rows that it has as its scale. `Terms.inexact` names it.

Scales are placeholders of the graph, and the graph's loss becomes the micro-batch's share of the batch's loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import evaluate_size
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
_POINTWISE = {"mul", "div", "add", "sub", "neg", "where", "sum", "rsub", "addcmul", "addcdiv", "lerp"}
_UNCHANGED = {"view", "reshape", "to", "_to_copy", "clone", "alias", "squeeze", "contiguous", "float"}

Count = Callable[[dict[str, torch.Tensor], dict[str, int]], float]
"""From the inputs by path, and the sizes that symbols stand for, to a micro-batch's count."""
Guard = Callable[[float], float]
"""From the count of a whole batch to what its sum is divided by."""


@dataclass
class Terms:
    """The terms of a graph's loss.

    Attributes:
        counts: of each scale, what to sum over all micro-batches and divide 1 by. None: its scale is a share of rows.
        guards: of each scale, what its count becomes as a divisor, in a quotient.
        inexact: operations whose values are averaged over micro-batches, though that is not the batch's value.
    """

    counts: list[Count | None] = field(default_factory=list)
    guards: list[Guard | None] = field(default_factory=list)
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
        if (
            name == "mean"
            and node.meta["val"].numel() == 1
            and self.rows.are_in(given["self"].meta["val"])
            and not self._is_weighted_by_batch(given["self"])
        ):
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
        total = self._new(node.target, (), given, behind=node)
        return self._new(share_of_mean, (total, self._scale(count)), {}, behind=total)

    def _quotient(self, node: fx.Node) -> fx.Node | None:
        """A sum over rows divided by another, which depends on the batch alone, such as a mask's; or a sum of what is
        divided so."""
        divided: Any = node.args[0] if _name(node) == "sum" else node
        if _name(divided) != "div" or divided.kwargs:
            return None
        total, counted = divided.args[0], self._count(divided.args[1])
        if divided is not node:
            if str(total.meta["val"].shape) != str(divided.meta["val"].shape):
                return None
            given = _given(node) | {"self": total}
            total = self._new(_SUMS[operation_of(node)._overloadname], (), given, behind=node)  # type: ignore[union-attr]
        if counted is None or not self._is_additive(total):
            return None
        return self._scaled(total, *counted, behind=node if divided is node else total)

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
            summed = given["self"]
            return (
                self.rows.are_in(summed.meta["val"])
                and node.meta["val"].numel() == 1
                and not self._is_weighted_by_batch(summed)
            )
        if name in ("add", "sub"):
            return all(self._is_additive(argument) for argument in node.args[:2])
        if name in ("mul", "div") and self._is_coefficient(node.args[1]):
            return self._is_additive(node.args[0])
        return name in _UNCHANGED | {"neg"} and self._is_additive(node.args[0])

    def _is_weighted_by_batch(self, node: Any) -> bool:
        """Whether rows are combined with what all of the batch's determine, such as a count of targets."""
        if not isinstance(node, fx.Node) or _name(node) not in _POINTWISE | _UNCHANGED:
            return False
        for argument in node.all_input_nodes:
            fake = argument.meta.get("val")
            if not isinstance(fake, torch.Tensor):
                continue
            of_batch = argument in self.of_inputs and not self.rows.are_in(fake) and not self._is_coefficient(argument)
            if of_batch or (self.rows.are_in(fake) and self._is_weighted_by_batch(argument)):
                return True
        return False

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

    def _count(self, divisor: Any) -> tuple[Count, Guard] | None:
        """A micro-batch's part of a divisor, and what makes the divisor of a whole batch's; None if that of a batch is
        no function of the sum of its parts'."""
        if not isinstance(divisor, fx.Node):
            return None
        size = divisor.meta.get("val")
        if isinstance(size, torch.SymInt):
            grows = self.rows.are_in_size(size)
            return (lambda _, sizes: float(evaluate_size(size, sizes)), float) if grows else None
        needed = with_dependencies({divisor}, self.groups) & self.of_inputs
        for counted in reversed(self.captured.graph.nodes):
            if counted in needed and self._is_additive(counted):
                count, guard = self._evaluate(counted), self._guard(counted, divisor)
                if count is not None and guard is not None:
                    return count, guard
        return None

    def _guard(self, counted: fx.Node, divisor: fx.Node) -> Guard | None:
        """The divisor as a function of a count; None if it needs more of the batch than that."""
        between = _between(counted, divisor)
        inputs = [node for node in between if node.op == "placeholder"]
        if (
            self.groups.root[counted] in self.groups.writers
            or any(self.captured.sources[node.name].kind != "constant" for node in inputs)
            or any(_writes(node) or node not in self.of_inputs for node in between)
        ):
            return None
        constants = [self.captured.constants[self.captured.sources[node.name].key] for node in inputs]
        module = self._module_of(divisor, [counted, *inputs], [node for node in between if node.op != "placeholder"])
        fake = counted.meta["val"]
        device = constants[0].device if constants else torch.device("cpu")

        def guard(total: float) -> float:
            with torch.no_grad():
                return float(module(torch.full([1] * fake.dim(), total, dtype=fake.dtype, device=device), *constants))

        return guard

    def _module_of(self, result: fx.Node, given: list[fx.Node], nodes: Iterable[fx.Node]) -> fx.GraphModule:
        """What computes a node by some of the graph's operations, given the values of others."""
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in given}
        for node in nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[result])
        return fx.GraphModule({}, graph)

    def _scaled(
        self, node: fx.Node, count: Count | None, guard: Guard | None = None, behind: fx.Node | None = None
    ) -> fx.Node:
        scale = self._scale(count, guard)
        return self._new(_aten.mul.Tensor, (node, scale), {}, behind=behind or node, like=node)

    def _scale(self, count: Count | None, guard: Guard | None = None) -> fx.Node:
        number = str(len(self.terms.counts))
        self.terms.counts.append(count)
        self.terms.guards.append(guard)
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
        ordered = [old for old in self.captured.graph.nodes if old in needed]
        given = [old for old in ordered if old.op == "placeholder"]
        sources = [self.captured.sources[old.name] for old in given]
        module = self._module_of(node, given, [old for old in ordered if old.op != "placeholder"])
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
        self._symbols = captured.row_symbols
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
        rows / all_rows if count is None else _inverse(total, guard)
        for count, guard, total in zip(terms.counts, terms.guards, totals, strict=True)
    ]


def share_of_mean(total: torch.Tensor, scale: float) -> torch.Tensor:
    """Of a mean over targets, called by graphs. Without any in the whole batch it is not a number, and its gradients
    are zeros, as PyTorch has it."""
    return total * 0 + scale if math.isnan(scale) else total * scale


def _inverse(total: float, guard: Guard | None) -> float:
    """One over a count; of a mean over nothing not a number, and where a quotient divides by zero infinite."""
    divisor = total if guard is None else guard(total)
    if divisor:
        return 1 / divisor
    return math.nan if guard is None else math.inf


def _between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """What `last` needs beside `first`, in order."""
    needed: set[fx.Node] = set()
    pending = [last]
    while pending:
        node = pending.pop()
        if node is not first and node not in needed:
            needed.add(node)
            pending += node.all_input_nodes
    return [node for node in last.graph.nodes if node in needed]


def _writes(node: fx.Node) -> bool:
    operation = operation_of(node)
    return operation is not None and operation._schema.is_mutable and _name(node) != "detach"


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


def _described(node: fx.Node) -> str:
    trace = str(node.meta.get("stack_trace") or "").strip().splitlines()
    return f"{node.name} ({trace[-1].strip()})" if trace else node.name
