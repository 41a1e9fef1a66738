"""The ways in which a gradient is all-reduced: merak's methods, and others beside them.

A way is prepared once, outside the measured time, and called many times; `reset` restores what a call overwrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist

import merak.sparse


class Way(Protocol):
    """One way, for one rank's gradient."""

    def reset(self) -> None:
        """Restore the input."""

    def call(self) -> None:
        """Reduce once, to completion."""

    def result(self) -> torch.Tensor:
        """The sum as a dense tensor."""


class Merak:
    """merak.sparse.all_reduce by one method."""

    def __init__(self, method: str, gradient: torch.Tensor, groups: dict[str, dist.ProcessGroup]) -> None:
        self.method, self.gradient, self.group = cast(Any, method), gradient, groups["merak"]

    def reset(self) -> None:
        self.sum = None

    def call(self) -> None:
        self.sum = merak.sparse.all_reduce(self.gradient, group=self.group, method=self.method)

    def result(self) -> torch.Tensor:
        assert self.sum is not None
        return self.sum.to_dense()


class Sparse:
    """torch.distributed.all_reduce of the sparse gradient over a backend."""

    def __init__(self, backend: str, gradient: torch.Tensor, groups: dict[str, dist.ProcessGroup]) -> None:
        self.gradient, self.group = gradient, groups[backend]

    def reset(self) -> None:
        self.sum = self.gradient.clone()

    def call(self) -> None:
        dist.all_reduce(self.sum, group=self.group)

    def result(self) -> torch.Tensor:
        return self.sum.to_dense()


class Dense(Sparse):
    """torch.distributed.all_reduce of the same gradient, made dense before."""

    def __init__(self, backend: str, gradient: torch.Tensor, groups: dict[str, dist.ProcessGroup]) -> None:
        super().__init__(backend, gradient.to_dense(), groups)


def _merak(method: str) -> Callable[..., Way]:
    return lambda *arguments: Merak(method, *arguments)


WAYS: dict[str, Callable[[torch.Tensor, dict[str, dist.ProcessGroup]], Way]] = {
    "auto": _merak("auto"),
    "balanced": _merak("balanced"),
    "gather": _merak("gather"),
    "packed": _merak("packed"),
    "dense": _merak("dense"),
    "gloo sparse": lambda *arguments: Sparse("gloo", *arguments),
    "gloo dense": lambda *arguments: Dense("gloo", *arguments),
}
