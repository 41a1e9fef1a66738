"""How long a model's operations take on this machine's device, measured one by one, in the order of a training step.

A rank's graph is run several times, forward and then backward, node by node, on real tensors in the shapes of a
micro-batch; of each node the median counts. In between nothing is repeated: an operation that is timed over and over
finds its operands in the caches, and its result's memory mapped, which in training it does not, and takes up to a third
less. What travels is not run, since nobody is there to answer: its results are made up. So a plan for many ranks is
profiled by one process. Where devices share a memory, all should profile at the same time.

What is measured is what an engine's ranks do: PyTorch's own operations under autograd, with the overhead of calling
them from Python. Backwards are called one by one here, and all of a stage's at once in training: what a call takes is
taken off.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import evaluate_size
from merak.graph.capture import Captured
from merak.graph.stages import Cuttable
from merak.pipeline.microbatches import MicroBatch

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
_CALLS = 50
Done = tuple[fx.Node, list[torch.Tensor], list[torch.Tensor]]
"""An operation that has run, what it was given that needs gradients, and what it gave."""


class Profiler:
    """Times operations on a device.

    Args:
        device: of this process.
        rounds: that count, after one that does not.
    """

    def __init__(self, device: torch.device | str = "cpu", rounds: int = 5) -> None:
        self.device, self.rounds = torch.device(device), rounds

    def profile(self, captured: Captured, cuttable: Cuttable, micro_batch: MicroBatch) -> dict[fx.Node, Seconds]:
        """Of each operation of a rank's trunk, for a micro-batch; `UNKNOWN` where they cannot be measured.

        Args:
            micro_batch: with real inputs.
        """
        last = _last_uses(captured)
        rounds = [self._step(captured, micro_batch, last) for _ in range(self.rounds + 1)][1:]
        call_s = self._call_s()
        return {
            node: (
                statistics.median(forward[node] for forward, _ in rounds),
                _less(statistics.median(backward.get(node, 0.0) for _, backward in rounds), call_s),
            )
            for node in captured.graph.nodes
            if node in cuttable.position and node in rounds[0][0]
        }

    def _step(
        self, captured: Captured, micro_batch: MicroBatch, last: Mapping[fx.Node, Sequence[fx.Node]]
    ) -> tuple[dict[fx.Node, float], dict[fx.Node, float]]:
        """Seconds of forwards and of backwards."""
        values: dict[fx.Node, Any] = {}
        forward: dict[fx.Node, float] = {}
        backward: dict[fx.Node, float] = {}
        done: list[Done] = []
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                values[node] = self._placeholder(captured, node, micro_batch)
            elif node.op == "get_attr":
                values[node] = getattr(captured.graph.owning_module, str(node.target))
            elif (module := _module(node)) in _TRAVELS:
                values[node] = self._made_up(node.meta["val"], micro_batch.sizes)
                forward[node], backward[node] = _TRAVELS[module]
            elif node.op == "call_function":
                values[node], forward[node] = self._forward(node, values, done)
            for over in last.get(node, ()):
                del values[over]
        while done:
            node, given, outputs = done.pop()
            gradients = [torch.ones_like(one) for one in outputs]
            call = functools.partial(torch.autograd.grad, outputs, given, gradients, allow_unused=True)
            _, backward[node] = self._timed(call)
        return forward, backward

    def _forward(self, node: fx.Node, values: Mapping[fx.Node, Any], done: list[Done]) -> tuple[Any, float]:
        """The operation on tensors that no other operation's backward knows, so that its own can be timed."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        leaves = {one: one.detach().requires_grad_(one.requires_grad) for one in _tensors((args, kwargs))}
        args, kwargs = _replaced((args, kwargs), leaves)
        target: Any = node.target
        call = functools.partial(target, *args, **kwargs)
        try:
            with torch.enable_grad():
                result, seconds = self._timed(call)
        except RuntimeError:  # an operation in place of what autograd needs: it is run without
            with torch.no_grad():
                return self._timed(call)
        outputs = [one for one in _tensors(result) if one.requires_grad]
        given = [one for one in leaves.values() if one.requires_grad]
        if outputs and given:
            done.append((node, given, outputs))
        return result, seconds

    def _call_s(self) -> float:
        """What it takes to call a backward that computes nothing."""
        x = torch.zeros((), device=self.device, requires_grad=True)
        y = x.view_as(x)
        call = functools.partial(torch.autograd.grad, [y], [x], [torch.ones_like(y)], retain_graph=True)
        return statistics.median(self._timed(call)[1] for _ in range(_CALLS))

    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """What a call gives, and its seconds."""
        begin = time.perf_counter()
        result = call()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return result, time.perf_counter() - begin

    def _placeholder(self, captured: Captured, node: fx.Node, micro_batch: MicroBatch) -> Any:
        kind, key = captured.sources[node.name]
        if kind == "input":
            return micro_batch.inputs[key].to(self.device, copy=True)
        if kind == "constant":
            return captured.constants[key].to(self.device)
        made = self._made_up(node.meta["val"], micro_batch.sizes)
        return made.requires_grad_() if kind == "parameter" and made.is_floating_point() else made

    def _made_up(self, fake: Any, sizes: dict[str, int]) -> Any:
        if isinstance(fake, list | tuple):
            return type(fake)(self._made_up(one, sizes) for one in fake)
        if not isinstance(fake, torch.Tensor):
            return evaluate_size(fake, sizes) if isinstance(fake, torch.SymInt) else fake
        shape = [evaluate_size(size, sizes) for size in fake.shape]
        if not fake.dtype.is_floating_point:
            return torch.zeros(shape, dtype=fake.dtype, device=self.device)
        return torch.empty(shape, dtype=fake.dtype, device=self.device).uniform_(-0.1, 0.1)


def _less(seconds: float, by: float) -> float:
    return seconds if math.isnan(seconds) else max(0.0, seconds - by)


def _module(node: fx.Node) -> str:
    """Where what an operation calls is from."""
    return str(getattr(node.target, "__module__", ""))


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
