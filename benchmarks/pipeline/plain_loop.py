"""The same stage graphs in a loop written by hand, on one rank: what an executor is measured against.

It is given an order of forwards and backwards, and does nothing but gather arguments, call graphs, and call
`torch.autograd.backward` from the values that leave a stage. What does not change from step to step is prepared: which
argument is a parameter, and what sizes are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from merak._torch_graphs import evaluate_size
from merak.graph.stages import Argument, Stage
from merak.pipeline.microbatches import MicroBatch

Tensors = Mapping[tuple[str, str], torch.Tensor]


class _Graph(NamedTuple):
    """A stage, as the loop needs it."""

    call: Callable[..., Sequence[torch.Tensor]]
    arguments: list[Any]
    """As they are, or None where they are another's value."""
    values: list[tuple[int, str]]
    """Places in `arguments`, and names of values."""
    results: tuple[str, ...]
    sent: list[tuple[str, bool]]
    """Names of the values for other stages, and whether gradients come back."""


class PlainLoop:
    """Runs a training step.

    Args:
        stages: each of one segment.
        tensors: as `StageRunner` takes them.
        microbatches: those of every step.
        order: stage, "F" or "B", micro-batch; in turn.
        loss: name of the loss.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        tensors: Tensors,
        microbatches: Sequence[MicroBatch],
        order: Sequence[tuple[int, str, int]],
        loss: str,
    ) -> None:
        self._order, self._loss = order, loss
        self._graphs = [[_graph(stage, tensors, microbatch) for microbatch in microbatches] for stage in stages]

    def step(self) -> None:
        self._leaves: list[dict[str, torch.Tensor]] = [{} for _ in self._graphs[0]]
        self._roots: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
        for stage, kind, microbatch in self._order:
            if kind == "F":
                self._forward(stage, microbatch)
            else:
                self._backward(stage, microbatch)

    def _forward(self, stage: int, microbatch: int) -> None:
        graph, leaves = self._graphs[stage][microbatch], self._leaves[microbatch]
        arguments = graph.arguments.copy()
        for place, name in graph.values:
            arguments[place] = leaves[name]
        results = dict(zip(graph.results, graph.call(*arguments), strict=True))
        for name, has_gradient in graph.sent:
            leaves[name] = results[name].detach().requires_grad_(has_gradient)
        self._roots[stage, microbatch] = results

    def _backward(self, stage: int, microbatch: int) -> None:
        graph, leaves = self._graphs[stage][microbatch], self._leaves[microbatch]
        results = self._roots.pop((stage, microbatch))
        roots = [results[name] for name, has_gradient in graph.sent if has_gradient]
        gradients = [leaves.pop(name).grad for name, has_gradient in graph.sent if has_gradient]
        if self._loss in results:
            roots.append(results[self._loss])
            gradients.append(torch.ones(()))
        torch.autograd.backward(roots, gradients)


def _graph(stage: Stage, tensors: Tensors, microbatch: MicroBatch) -> _Graph:
    (segment,) = stage.segments
    arguments = [_fixed(argument, tensors, microbatch) for argument in segment.arguments]
    values = [(place, argument.key) for place, argument in enumerate(segment.arguments) if argument.kind == "value"]
    sent = [(value.name, value.has_gradient) for value in stage.sent]
    return _Graph(segment.module, arguments, values, segment.results, sent)


def _fixed(argument: Argument, tensors: Tensors, microbatch: MicroBatch) -> Any:
    kind, key, fake = argument
    if kind == "value":
        return None
    if kind == "input":
        return microbatch.inputs[key]
    if kind == "size":
        return evaluate_size(fake, microbatch.sizes)
    return microbatch.scales[int(key)] if kind == "scale" else tensors[kind, key]
