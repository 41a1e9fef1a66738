"""One stage, run: forward, recomputation and backward of its micro-batches in any order that a schedule gives.

A forward keeps what its backward needs until then. Values from other stages are leaves of the autograd graph, values
for other stages are its roots, whose gradients come from there. A *checkpointed* forward runs the first segment without
a graph and keeps only its arguments, and the results that are to stay (`merak.graph.keeping`); recomputing runs it
again with one. Its results are leaves to the second segment, and roots again when the backward gets there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from merak._torch_graphs import evaluate_size
from merak.graph.keeping import Kept
from merak.graph.randomness import RandomState
from merak.graph.stages import Segment, Stage
from merak.graph.weight_gradients import Remaining, WeightGradients
from merak.pipeline.microbatches import MicroBatch

Tensors = dict[str, torch.Tensor]


@dataclass
class _Live:
    """What is kept of a micro-batch between its forward and its backward."""

    microbatch: MicroBatch
    received: Tensors
    values: dict[str, Any] = field(default_factory=dict)
    """All values that a segment may be called with, as leaves where they are results of a checkpointed segment."""
    before: Tensors = field(default_factory=dict)
    """Buffers that a checkpointed segment writes to, as they were: a recomputation takes these for its own."""
    kept: Kept = field(default_factory=Kept)
    roots: list[Tensors] = field(default_factory=list)
    """By segment: results that have a graph."""
    needed: Collection[str] | None = None
    """Of the last segment's results, those that the backward begins at; None for all."""


class StageRunner:
    """Runs a stage.

    Args:
        stage: the graphs.
        tensors: parameters, buffers and constants by kind and name.
        seed: of random operations.
        around: a context for forwards and recomputations, such as autocast.
    """

    def __init__(
        self,
        stage: Stage,
        tensors: Mapping[tuple[str, str], torch.Tensor],
        seed: int = 0,
        around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.stage = stage
        self.step = 0
        self._tensors = tensors
        self._seed = seed
        self._around = around
        self._live: dict[int, _Live] = {}
        self._remaining: dict[int, list[Remaining]] = {}
        self._sizes: dict[tuple[str, tuple[int, ...]], int] = {}

    def forward(
        self,
        key: int,
        microbatch: MicroBatch,
        received: Tensors,
        *,
        checkpointed: bool,
        grad: bool,
        needed: Collection[str] | None = None,
    ) -> Tensors:
        """Runs the stage for a micro-batch; all results by name, without graphs.

        Args:
            key: names the micro-batch in later calls.
            received: the stage's values from other stages; they are kept until the backward.
            checkpointed: `recompute` will be called before `backward`.
            grad: keep what `backward` needs.
            needed: names of results that `backward` will be given gradients of; by default any may be. Others are not
                kept: a model's scores, say, where only the loss is wanted.
        """
        live = _Live(microbatch, received, needed=needed)
        if grad:
            self._live[key] = live
            for value in self.stage.received:
                received[value.name].requires_grad_(value.has_gradient)
        live.values.update(received)
        results: Tensors = {}
        for segment in self.stage.segments:
            again = checkpointed and segment.recomputed
            if again:
                live.before |= {key: self._tensors["buffer", key].clone() for key in segment.written}
            with live.kept.recording() if again else contextlib.nullcontext():
                given = self._run(segment, live, grad=grad and not again, scratch=False)
            results |= given
            live.roots.append({} if again else given)
            live.values |= {name: _leaf(given[name], name in segment.gradients) for name in given} if again else given
        self._drop(live)
        return {name: result.detach() for name, result in results.items()}

    def recompute(self, key: int) -> None:
        """Runs again what a checkpointed forward has not kept."""
        live = self._live[key]
        for index, segment in enumerate(self.stage.segments):
            if segment.recomputed:
                with live.kept.replaying():
                    live.roots[index] = self._run(segment, live, grad=True, scratch=True)
        self._drop(live)

    def _drop(self, live: _Live) -> None:
        """Lets go of results that no backward begins at."""
        for name in self.stage.segments[-1].results:
            if live.needed is not None and name not in live.needed:
                live.values.pop(name, None)
                live.roots[-1].pop(name, None)

    def backward(self, key: int, gradients: Tensors, *, delay_weights: bool = False) -> Tensors:
        """Adds to the parameters' gradients; returns the gradients of received values by name.

        Args:
            key: as in `forward`.
            gradients: of results by name; of the loss too.
            delay_weights: leave gradients of weights to `backward_weights`, where that can be.
        """
        live = self._live.pop(key)
        with WeightGradients.delayed() if delay_weights else contextlib.nullcontext() as remaining:
            for roots in reversed(self._graphs(live)):
                _backward(roots, gradients, live.values)
        if remaining is not None:
            self._remaining[key] = remaining
        return {
            value.name: _gradient_of(live.received[value.name]) for value in self.stage.received if value.has_gradient
        }

    def backward_weights(self, key: int) -> None:
        """Adds what `backward` has left out."""
        for add in self._remaining.pop(key):
            add()

    def forget(self) -> None:
        """Drops what is kept, after a step that failed."""
        self._live.clear()
        self._remaining.clear()

    @property
    def live(self) -> int:
        """How many micro-batches are between forward and backward."""
        return len(self._live)

    @staticmethod
    def _graphs(live: _Live) -> list[Tensors]:
        """The roots of each autograd graph, in the order of the forward: one, or two that a checkpoint keeps apart."""
        first, *rest = live.roots
        if rest and all(live.values[name] is root for name, root in first.items()):
            return [first | rest[0]]
        return live.roots

    def _run(self, segment: Segment, live: _Live, *, grad: bool, scratch: bool) -> Tensors:
        microbatch = live.microbatch
        RandomState.set(self._seed, self.step, microbatch.index)
        written = segment.written if scratch else ()
        arguments = [self._argument(argument, live, written) for argument in segment.arguments]
        with torch.set_grad_enabled(grad), self._around():
            results = dict(zip(segment.results, segment.module(*arguments), strict=True))
        torch.clear_autocast_cache()  # which the end of `around` does only if no other autocast is around that
        return results

    def _argument(self, argument: Any, live: _Live, scratch: Any) -> Any:
        kind, key, fake = argument
        if kind == "value":
            return live.values[key]
        if kind == "input":
            return live.microbatch.inputs[key]
        if kind == "size":
            return self._size(key, fake, live.microbatch.sizes)
        if kind == "scale":
            return live.microbatch.scales[int(key)]
        tensor = self._tensors[kind, key]
        # A recomputation must not count a micro-batch twice in the statistics of batch normalisation.
        return live.before[key] if key in scratch else tensor

    def _size(self, name: str, formula: Any, sizes: dict[str, int]) -> int:
        """Formulas take some 50 us; batches have few sizes."""
        known = name, tuple(sizes.values())
        if known not in self._sizes:
            self._sizes[known] = evaluate_size(formula, sizes)
        return self._sizes[known]


def _leaf(tensor: torch.Tensor, has_gradient: bool) -> torch.Tensor:
    return tensor.detach().requires_grad_(has_gradient)


def _backward(roots: Tensors, gradients: Tensors, values: dict[str, Any]) -> None:
    tensors, given = [], []
    for name, root in roots.items():
        if not root.requires_grad:
            continue
        leaf = values.get(name)
        inner = leaf.grad if leaf is not None and leaf is not root else None
        outer = gradients.get(name)
        if inner is None and outer is None:
            continue
        tensors.append(root)
        given.append(inner if outer is None else outer if inner is None else inner + outer)
    if tensors:
        torch.autograd.backward(tensors, given)


def _gradient_of(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
