"""Ranks as threads of one process: lowered graphs run with their own collectives, which hand tensors over.

Nothing can hang: when a rank raises, what the others wait for ends at once.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from unittest import mock

import torch
import torch.distributed as dist

from merak.sharding.parts import Place, places_of

R = TypeVar("R")
SECONDS = 60.0

_current = threading.local()
_pool = ThreadPoolExecutor(8)


class Group:
    """Ranks that exchange tensors."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.ranks = list(ranks)
        self._given: list[Any] = [None] * len(self.ranks)
        self.barrier = threading.Barrier(len(self.ranks), timeout=SECONDS)

    @property
    def number(self) -> int:
        """This thread's among the ranks."""
        return self.ranks.index(_current.rank)

    def exchange(self, mine: Any) -> list[Any]:
        """What all ranks give."""
        self._given[self.number] = mine
        self.barrier.wait()
        everyones = list(self._given)
        self.barrier.wait()
        return everyones


class _Done:
    def wait(self) -> None:
        """It is."""


def _all_reduce(tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False) -> _Done:
    terms = torch.stack(group.exchange(tensor.clone()))
    tensor.copy_(terms.amax(0) if op == dist.ReduceOp.MAX else terms.sum(0, dtype=tensor.dtype))
    return _Done()


def _all_gather(output: torch.Tensor, mine: torch.Tensor, group: Any = None, async_op: bool = False) -> _Done:
    output.copy_(torch.cat(group.exchange(mine.clone())))
    return _Done()


def _reduce_scatter(output: torch.Tensor, mine: torch.Tensor, group: Any = None, async_op: bool = False) -> _Done:
    terms = torch.stack(group.exchange(mine.clone())).sum(0, dtype=mine.dtype)
    output.copy_(terms.chunk(len(group.ranks))[group.number] if terms.numel() else terms)
    return _Done()


def _all_to_all(
    output: torch.Tensor,
    mine: torch.Tensor,
    output_split_sizes: Sequence[int] | None = None,
    input_split_sizes: Sequence[int] | None = None,
    group: Any = None,
    async_op: bool = False,
) -> _Done:
    ranks = len(group.ranks)
    sizes = list(input_split_sizes or [mine.shape[0] // ranks] * ranks)
    everyones = group.exchange(mine.clone().split(sizes))
    output.copy_(torch.cat([one[group.number] for one in everyones]))
    return _Done()


@contextlib.contextmanager
def _among(groups: Mapping[str, Group]) -> Iterator[None]:
    with (
        mock.patch.multiple(
            dist,
            all_reduce=_all_reduce,
            all_gather_into_tensor=_all_gather,
            reduce_scatter_tensor=_reduce_scatter,
            all_to_all_single=_all_to_all,
        ),
        contextlib.ExitStack() as names,
    ):
        for name, module in list(sys.modules.items()):
            if name.startswith("merak.sharding.") and hasattr(module, "group_by_name"):
                names.enter_context(mock.patch.object(module, "group_by_name", groups.__getitem__))
        yield


def on_mesh(mesh: Mapping[str, int], body: Callable[[list[Place]], R]) -> list[R]:
    """What a body gives on all ranks of a mesh, each called with its places.

    Raises:
        Exception: the first rank's that raised one by itself.
    """
    coordinates = list(itertools.product(*map(range, mesh.values())))
    groups: dict[str, Group] = {}
    places = []
    for rank, own in enumerate(coordinates):
        names = {name: f"{name}@{own[:axis] + own[axis + 1 :]}" for axis, name in enumerate(mesh)}
        for axis, name in enumerate(mesh):
            members = [
                number
                for number, other in enumerate(coordinates)
                if other[:axis] + other[axis + 1 :] == own[:axis] + own[axis + 1 :]
            ]
            groups.setdefault(names[name], Group(members))
        places.append(places_of(mesh, rank, names))

    def run(rank: int) -> R:
        _current.rank = rank
        try:
            return body(places[rank])
        except BaseException:
            for group in groups.values():
                group.barrier.abort()
            raise

    with _among(groups):
        running = [_pool.submit(run, rank) for rank in range(len(coordinates))]
        errors = [error for one in running if (error := one.exception()) is not None]
    for error in sorted(errors, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
        raise error
    return [one.result() for one in running]
