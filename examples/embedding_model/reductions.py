"""How gradients are averaged over the ranks: what `--reduce` chooses between.

`dense` is what DDP does with tables that are declared without `sparse=True`: their gradients are dense tensors, zero in
most rows, and so is the optimizer's work. The others have sparse gradients.
"""
# Without `from __future__ import annotations`: DDP looks at the annotations of hooks, and wants types.

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import merak.sparse

Hook = Callable[[Any, GradBucket], torch.futures.Future[torch.Tensor]]
Budgets = dict[torch.nn.Parameter, int]


@dataclass(frozen=True)
class Reduction:
    """A way: the group's backend, whether the tables' gradients are sparse, DDP's hook, and what makes its state, from
    the bytes that a table's gradient may take."""

    backend: str
    sparse: bool
    hook: Hook
    state: Callable[[Budgets], Any]


REDUCTIONS = {
    "gloo": Reduction("gloo", True, allreduce_hook, lambda _: None),
    "dense": Reduction("merak", False, merak.sparse.exact_hook, lambda _: merak.sparse.HookState()),
    "exact": Reduction("merak", True, merak.sparse.exact_hook, lambda _: merak.sparse.HookState()),
    "sketch": Reduction(
        "merak", True, merak.sparse.sketch_hook, lambda budgets: merak.sparse.SketchState(budget_bytes=budgets)
    ),
}


class TimedHook:
    """A hook that takes down when DDP last called it: with the last gradients of a backward pass."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        self._called = 0.0

    def register(self, model: DistributedDataParallel, state: Any) -> None:
        """Makes it the hook of `model`."""
        model.register_comm_hook(state, self.call)

    def call(self, state: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """What DDP calls."""
        self._called = time.perf_counter()
        return self._hook(state, bucket)

    def waited(self) -> float:
        """Seconds since the last call. At the end of a backward pass: what communication made it longer by."""
        return time.perf_counter() - self._called
