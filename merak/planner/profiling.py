"""How long a model's operations take on this machine's device, measured one by one.

A rank's graph is run once, node by node, on real tensors in the shapes of a micro-batch. Each node's forward, and the
backward of it alone, are timed; calls that cannot be told apart, as those of repeated layers, once. What travels is not
run, since nobody is there to answer: its results are made up. So a plan for many ranks is profiled by one process.

What is measured is what an engine's ranks do: PyTorch's own operations under autograd, with the overhead of calling
them from Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import evaluate_size
from merak.graph.capture import Captured
from merak.graph.randomness import operation_of
from merak.graph.stages import Cuttable
from merak.pipeline.microbatches import MicroBatch
from merak.planner.device_speed import median_seconds

Seconds = tuple[float, float]
"""Of a forward, and of a backward."""
UNKNOWN = math.nan, math.nan
_TRAVELS = {
    "merak.sharding.collectives": (0.0, 0.0),
    "merak.sharding.overlapped": (0.0, 0.0),
    "merak.sharding.borders": (0.0, 0.0),
    "merak.sharding.vocabulary": UNKNOWN,
    "merak.sharding.experts": UNKNOWN,
}
"""By module, operations that cannot be run alone: what travels, which clusters have prices for, and what computes and
communicates in one, which is not measured."""
_ROUNDS = 5
_LEAST_S = 2e-4
"""Calls that are shorter are repeated until they add up to this much."""


class Profiler:
    """Times operations on a device, and remembers them.

    Args:
        device: of this process.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._known: dict[str, Seconds] = {}

    def profile(self, captured: Captured, cuttable: Cuttable, micro_batch: MicroBatch) -> dict[fx.Node, Seconds]:
        """Of each operation of a rank's trunk, for a micro-batch; `UNKNOWN` where they cannot be measured.

        Args:
            micro_batch: with real inputs.
        """
        values: dict[fx.Node, Any] = {}
        found: dict[fx.Node, Seconds] = {}
        last = _last_uses(captured)
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                values[node] = self._placeholder(captured, node, micro_batch)
            elif node.op == "get_attr":
                values[node] = getattr(captured.graph.owning_module, str(node.target))
            elif node.op == "call_function":
                values[node], seconds = self._run(node, values, micro_batch.sizes)
                if node in cuttable.position:
                    found[node] = seconds
            for done in last.get(node, ()):
                del values[done]
        return found

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Any], sizes: dict[str, int]) -> tuple[Any, Seconds]:
        if (module := _module(node)) in _TRAVELS:
            return self._made_up(node.meta["val"], sizes), _TRAVELS[module]
        target: Any = node.target
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        key = _signature(node, args, kwargs)
        if key not in self._known:
            self._known[key] = self._timed(target, args, kwargs)
        with torch.no_grad():
            return target(*args, **kwargs), self._known[key]

    def _timed(self, target: Any, args: Any, kwargs: Any) -> Seconds:
        fresh = {one: _copy(one) for one in _tensors((args, kwargs))}
        args, kwargs = _replaced((args, kwargs), fresh)
        try:
            with torch.enable_grad():
                forward_s = self._median(lambda: target(*args, **kwargs))
                outputs = [one for one in _tensors(target(*args, **kwargs)) if one.requires_grad]
        except RuntimeError:  # an operation in place of what autograd needs: it is run without
            with torch.no_grad():
                return self._median(lambda: target(*args, **kwargs)), 0.0
        given = [one for one in fresh.values() if one.requires_grad]
        if not outputs or not given:
            return forward_s, 0.0
        gradients = [torch.ones_like(one) for one in outputs]

        def backward() -> None:
            torch.autograd.grad(outputs, given, gradients, retain_graph=True, allow_unused=True)

        return forward_s, self._median(backward)

    def _median(self, call: Callable[[], object]) -> float:
        once = median_seconds(call, self.device, 1)
        repeats = max(1, round(_LEAST_S / max(once, 1e-7)))

        def several() -> None:
            for _ in range(repeats):
                call()

        return median_seconds(several, self.device, _ROUNDS) / repeats

    def _placeholder(self, captured: Captured, node: fx.Node, micro_batch: MicroBatch) -> Any:
        kind, key = captured.sources[node.name]
        if kind == "input":
            return micro_batch.inputs[key].to(self.device)
        if kind == "constant":
            return captured.constants[key].to(self.device)
        return self._made_up(node.meta["val"], micro_batch.sizes)

    def _made_up(self, fake: Any, sizes: dict[str, int]) -> Any:
        if isinstance(fake, list | tuple):
            return type(fake)(self._made_up(one, sizes) for one in fake)
        if not isinstance(fake, torch.Tensor):
            return evaluate_size(fake, sizes) if isinstance(fake, torch.SymInt) else fake
        shape = [evaluate_size(size, sizes) for size in fake.shape]
        if not fake.dtype.is_floating_point:
            return torch.zeros(shape, dtype=fake.dtype, device=self.device)
        return torch.empty(shape, dtype=fake.dtype, device=self.device).uniform_(-0.1, 0.1)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """So that what is done to it in place is done to nothing else."""
    copy = tensor.detach().clone()
    return copy.requires_grad_() if copy.is_floating_point() else copy


def _module(node: fx.Node) -> str:
    """Where what an operation calls is from."""
    return str(getattr(node.target, "__module__", ""))


def _signature(node: fx.Node, args: Any, kwargs: Any) -> str:
    """The same for calls that take equally long."""

    def described(one: Any) -> str:
        if isinstance(one, torch.Tensor):
            return f"{one.dtype}{tuple(one.shape)}{one.stride()}{one.requires_grad}"
        if isinstance(one, list | tuple):
            return f"[{','.join(map(described, one))}]"
        return repr(one) if isinstance(one, int | float | str | bool | None) else type(one).__name__

    named = ",".join(f"{name}={described(one)}" for name, one in kwargs.items())
    name = getattr(node.target, "__name__", str(node.target))
    return f"{operation_of(node) or name}({described(args)},{named})"


def _tensors(given: Any) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, dict):
        for one in given.values():
            yield from _tensors(one)
    elif isinstance(given, list | tuple):
        for one in given:
            yield from _tensors(one)


def _replaced(given: Any, others: Mapping[torch.Tensor, torch.Tensor]) -> Any:
    if isinstance(given, torch.Tensor):
        return others.get(given, given)
    if isinstance(given, dict):
        return {name: _replaced(one, others) for name, one in given.items()}
    if isinstance(given, list | tuple):
        return type(given)(_replaced(one, others) for one in given)
    return given


def _last_uses(captured: Captured) -> dict[fx.Node, Sequence[fx.Node]]:
    """By node: those that nobody needs after it."""
    seen: set[fx.Node] = set()
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(captured.graph.nodes):
        for one in (node, *node.all_input_nodes):
            if one not in seen:
                seen.add(one)
                found.setdefault(node, []).append(one)
    return {node: ones for node, ones in found.items() if node.op != "output"}
