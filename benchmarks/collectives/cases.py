"""The nine collectives as the benchmark calls them: buffers of a given size, the call, and the check of its result.

A case is prepared once and called many times. Rank r contributes r + 1 everywhere, so that every result is a small
integer, exact in float32 and known in advance. `reset` restores what a call overwrote, outside the measured time. The
root is rank 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.distributed as dist


class Case(Protocol):
    """Buffers of one collective on one rank."""

    def reset(self) -> None:
        """Restore the inputs."""

    def call(self, group: dist.ProcessGroup) -> None:
        """Run the collective once, to completion."""

    def correct(self) -> bool:
        """Whether this rank's result is the right one."""


class Broadcast:
    def __init__(self, rank: int, size: int, count: int) -> None:
        self.fill = float(rank + 1)
        self.data = torch.empty(count)

    def reset(self) -> None:
        self.data.fill_(self.fill)

    def call(self, group: dist.ProcessGroup) -> None:
        dist.broadcast(self.data, 0, group=group)

    def correct(self) -> bool:
        return bool((self.data == 1).all())


class Reduce:
    def __init__(self, rank: int, size: int, count: int) -> None:
        self.rank, self.total = rank, size * (size + 1) // 2
        self.data = torch.empty(count)

    def reset(self) -> None:
        self.data.fill_(float(self.rank + 1))

    def call(self, group: dist.ProcessGroup) -> None:
        dist.reduce(self.data, 0, group=group)

    def correct(self) -> bool:
        return self.rank != 0 or bool((self.data == self.total).all())


class AllReduce(Reduce):
    def call(self, group: dist.ProcessGroup) -> None:
        dist.all_reduce(self.data, group=group)

    def correct(self) -> bool:
        return bool((self.data == self.total).all())


class _Blocks:
    """A whole tensor of one block a rank, and one such block."""

    def __init__(self, rank: int, size: int, count: int) -> None:
        self.rank, self.size = rank, size
        self.whole = torch.full((count // size * size,), float(rank + 1))
        self.block = torch.full((count // size,), float(rank + 1))
        self.blocks = list(self.whole.chunk(size))

    def reset(self) -> None:
        """Nothing to do: inputs and outputs are different tensors."""

    def whole_holds_every_rank(self, whole: torch.Tensor) -> bool:
        return all(bool((block == rank + 1).all()) for rank, block in enumerate(whole.chunk(self.size)))


class AllGather(_Blocks):
    def call(self, group: dist.ProcessGroup) -> None:
        dist.all_gather_into_tensor(self.whole, self.block, group=group)

    def correct(self) -> bool:
        return self.whole_holds_every_rank(self.whole)


class ReduceScatter(_Blocks):
    def call(self, group: dist.ProcessGroup) -> None:
        dist.reduce_scatter_tensor(self.block, self.whole, group=group)

    def correct(self) -> bool:
        return bool((self.block == self.size * (self.size + 1) // 2).all())


class AllToAll(_Blocks):
    def __init__(self, rank: int, size: int, count: int) -> None:
        super().__init__(rank, size, count)
        self.output = torch.zeros_like(self.whole)

    def call(self, group: dist.ProcessGroup) -> None:
        dist.all_to_all_single(self.output, self.whole, group=group)

    def correct(self) -> bool:
        return self.whole_holds_every_rank(self.output)


class Scatter(_Blocks):
    def __init__(self, rank: int, size: int, count: int) -> None:
        super().__init__(rank, size, count)
        for index, block in enumerate(self.blocks):
            block.fill_(float(index + 1))

    def call(self, group: dist.ProcessGroup) -> None:
        dist.scatter(self.block, self.blocks if self.rank == 0 else None, 0, group=group)

    def correct(self) -> bool:
        return bool((self.block == self.rank + 1).all())


class Gather(_Blocks):
    def call(self, group: dist.ProcessGroup) -> None:
        dist.gather(self.block, self.blocks if self.rank == 0 else None, 0, group=group)

    def correct(self) -> bool:
        return self.rank != 0 or self.whole_holds_every_rank(self.whole)


class Barrier:
    def __init__(self, rank: int, size: int, count: int) -> None:
        """A barrier has no buffers."""

    def reset(self) -> None:
        """Nothing to do."""

    def call(self, group: dist.ProcessGroup) -> None:
        dist.barrier(group=group)

    def correct(self) -> bool:
        return True


_CASES: dict[str, Callable[[int, int, int], Case]] = {
    "broadcast": Broadcast,
    "reduce": Reduce,
    "all_reduce": AllReduce,
    "all_gather": AllGather,
    "reduce_scatter": ReduceScatter,
    "all_to_all": AllToAll,
    "scatter": Scatter,
    "gather": Gather,
    "barrier": Barrier,
}


def make_case(name: str, rank: int, size: int, nbytes: int) -> Case:
    """The buffers of one collective of `nbytes` bytes (V of `bounds`) of float32, for `rank` of `size` ranks."""
    return _CASES[name](rank, size, nbytes // 4)
