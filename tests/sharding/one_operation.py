"""Graphs of one operation, divided by merak: its results on ranks that are threads, and what its rule allows."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import fake_mode
from merak.graph.capture import Captured, Source
from merak.graph.dependence import values_of_inputs
from merak.graph.losses import Terms
from merak.graph.normal_form import AliasGroups
from merak.graph.prepare import Prepared
from merak.graph.stages import Cuttable
from merak.graph.trees import flatten
from merak.sharding.annotations import Dim, annotate
from merak.sharding.completion import Completion
from merak.sharding.lower import Lowered, lower
from merak.sharding.parts import Place, gather, parts
from merak.sharding.program import ShardableGraph
from tests.sharding.calls import Drawn
from tests.sharding.dtensors import Divided, Kinds
from tests.sharding.threads import on_mesh


def prepared(drawn: Drawn, *, loss: bool = False) -> Prepared:
    """The graph of a call, whose operands are parameters `t0`, `t1`, ... With a loss, that comes behind the results:
    the sum of their squares."""
    graph = fx.Graph()
    with fake_mode():
        fakes = [torch.empty_strided(one.shape, one.stride(), dtype=one.dtype) for one in drawn.operands]
        made = drawn.called(*drawn.with_operands(fakes))
    nodes = [graph.placeholder(f"t{number}") for number in range(len(fakes))]
    for node, fake in zip(nodes, fakes, strict=True):
        node.meta["val"] = fake
    call = graph.call_function(drawn.called, tuple(drawn.with_operands(nodes)))
    call.meta["val"] = made
    results = [call]
    if isinstance(made, list | tuple):
        results = [graph.call_function(operator.getitem, (call, index)) for index in range(len(made))]
        for node, fake in zip(results, made, strict=True):
            node.meta["val"] = fake
    if loss:
        results.append(_sum_of_squares(graph, results))
    graph.output(results)
    sources = {node.name: Source("parameter", node.name) for node in nodes}
    flat = flatten({"results": [torch.empty(0)] * len(results)})
    captured = Captured(
        graph=graph,
        sources=sources,
        constants={},
        inputs={},
        fixed={},
        outputs=[f"results.{number}" for number in range(len(results))],
        template=flat.template,
        leaves=[],
        loss=len(results) - 1 if loss else None,
        training=True,
        conditions=[],
    )
    groups = AliasGroups(captured)
    return Prepared(captured, Terms(), Cuttable(captured, groups, values_of_inputs(captured, groups)))


def _sum_of_squares(graph: fx.Graph, results: Sequence[fx.Node]) -> fx.Node:
    total = None
    for node in results:
        if not node.meta["val"].is_floating_point():
            continue
        for called in (torch.ops.aten.square.default, torch.ops.aten.sum.default):
            value = called(node.meta["val"])
            node = graph.call_function(called, (node,))
            node.meta["val"] = value
        if total is not None:
            node = graph.call_function(torch.ops.aten.add.Tensor, (total, node))
            node.meta["val"] = value
        total = node
    assert total is not None, "nothing gets a gradient"
    return total


def completed(drawn: Drawn, mesh: Mapping[str, int], divided: Divided, *, loss: bool = False) -> Completion:
    """With the operands divided as given, and not otherwise."""
    names = list(mesh)
    wishes = []
    for number, (tensor, of) in enumerate(zip(drawn.operands, divided, strict=True)):
        dims = [
            Dim(tuple(name for name, on in zip(names, of, strict=True) if on == dim), closed=True)
            for dim in range(tensor.dim())
        ]
        if dims:
            wishes.append(annotate(f"t{number}", dims))
    return Completion(ShardableGraph(prepared(drawn, loss=loss), mesh), wishes)


def results_on_mesh(drawn: Drawn, mesh: Mapping[str, int], divided: Divided) -> list[torch.Tensor]:
    """Whole results, of which all ranks have the same."""
    completion = completed(drawn, mesh, divided)
    of_ranks = on_mesh(mesh, lambda places: _of_rank(lower(completion, places), drawn, places))
    for other in of_ranks[1:]:
        assert all(torch.equal(one, two) or _nan(one, two) for one, two in zip(of_ranks[0], other, strict=True))
    return of_ranks[0]


def _nan(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, equal_nan=True)


def _of_rank(lowered: Lowered, drawn: Drawn, places: Sequence[Place]) -> list[torch.Tensor]:
    operands = [parts(one, lowered.layouts[f"t{number}"], places).clone() for number, one in enumerate(drawn.operands)]
    with torch.no_grad():
        outputs = fx.Interpreter(fx.GraphModule({}, lowered.captured.graph)).run(*operands)
        return [
            gather(one, lowered.outputs[number], places) if number in lowered.outputs else one
            for number, one in enumerate(outputs)
            if isinstance(one, torch.Tensor)
        ]


def gradients_on_mesh(drawn: Drawn, mesh: Mapping[str, int], divided: Divided) -> list[torch.Tensor | None]:
    """Of the sum of all results' squares: whole gradients of the operands."""
    completion = completed(drawn, mesh, divided, loss=True)
    return on_mesh(mesh, lambda places: _gradients_of_rank(lower(completion, places), drawn, places))[0]


def _gradients_of_rank(lowered: Lowered, drawn: Drawn, places: Sequence[Place]) -> list[torch.Tensor | None]:
    operands = [
        parts(one, lowered.layouts[f"t{number}"], places).clone().requires_grad_(one.is_floating_point())
        for number, one in enumerate(drawn.operands)
    ]
    fx.Interpreter(fx.GraphModule({}, lowered.captured.graph)).run(*operands)[-1].backward()
    return [
        None if one.grad is None else gather(one.grad, lowered.layouts[f"t{number}"], places)
        for number, one in enumerate(operands)
    ]


def gradients_of(drawn: Drawn) -> list[torch.Tensor | None]:
    """The same in one process."""
    operands = [one.clone().requires_grad_(one.is_floating_point()) for one in drawn.operands]
    total = sum(one.square().sum() for one in drawn.run(operands) if one.is_floating_point())
    assert isinstance(total, torch.Tensor)
    total.backward()
    return [one.grad for one in operands]


class Allowed:
    """What merak's rule allows over one axis.

    Attributes:
        ways: of what is divided in the operands, what the results are then.
    """

    def __init__(self, drawn: Drawn) -> None:
        made = prepared(drawn)
        graph = ShardableGraph(made, {"a": 2})
        self.ways: dict[tuple[int | None, ...], Kinds] = {}
        self.has_rule = bool(graph.operations)
        if not graph.operations:
            return
        factors, operands, results = graph.rule(0)
        given = [dims for node, dims in zip(graph.operations[0].operands, operands, strict=True) if node is not None]
        for number, (_, kind) in enumerate(factors):
            of_operands = [_place(dims, number) for dims in given]
            if (
                kind in ("replicate", "window")
                or not any(isinstance(dim, int) for dim in of_operands)
                or "other" in of_operands
            ):
                continue
            kinds: list[int | str] = []
            for node, dims in zip(graph.operations[0].results, results, strict=True):
                place = _place(dims, number)
                if node is None or not isinstance(node.meta.get("val"), torch.Tensor):
                    continue
                kinds.append("sum" if kind in ("reduce", "partial") else "whole" if place is None else place)
            self.ways[tuple(dim if isinstance(dim, int) else None for dim in of_operands)] = tuple(kinds)


def _place(dims: Sequence[Sequence[int]], factor: int) -> Any:
    """The dimension that is divided where a factor is; "other" where it is not the dimension's first."""
    found: list[Any] = [dim if of[0] == factor else "other" for dim, of in enumerate(dims) if factor in of]
    return found[0] if len(found) == 1 else None if not found else "other"
