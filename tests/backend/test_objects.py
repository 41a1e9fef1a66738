"""The collectives of Python objects, which torch builds from broadcasts, gathers and scatters of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.backend.comparison import assert_same
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]


def thing(rank: int) -> dict[str, Any]:
    """An object whose pickled size differs between ranks."""
    return {"rank": rank, "text": "x" * (10 ** (rank + 1)), "tensor": torch.arange(rank + 1), "nested": [None, (rank,)]}


def all_gather(context: Context) -> list[Any]:
    everyone: list[Any] = [None] * context.world_size
    dist.all_gather_object(everyone, thing(context.rank))
    return everyone


def gather(context: Context) -> list[Any] | None:
    everyone: list[Any] | None = [None] * context.world_size if context.rank == 1 else None
    dist.gather_object(thing(context.rank), everyone, dst=1)
    return everyone


def broadcast(context: Context) -> list[Any]:
    objects = [thing(1), "second"] if context.rank == 1 else [None, None]
    dist.broadcast_object_list(objects, src=1)
    return objects


def scatter(context: Context) -> Any:
    mine: list[Any] = [None]
    whole = [thing(rank) for rank in range(context.world_size)] if context.rank == 1 else None
    dist.scatter_object_list(mine, whole, src=1)
    return mine[0]


def pass_on(context: Context) -> Any:
    """Each rank sends to the next; even ranks send first."""
    to, source = (context.rank + 1) % context.world_size, (context.rank - 1) % context.world_size
    got: list[Any] = [None]
    if context.rank % 2 == 0:
        dist.send_object_list([thing(context.rank)], dst=to)
        dist.recv_object_list(got, src=source)
    else:
        dist.recv_object_list(got, src=source)
        dist.send_object_list([thing(context.rank)], dst=to)
    return got[0]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_objects_arrive(run: Runner, world_size: int) -> None:
    whole = [thing(rank) for rank in range(world_size)]
    assert_same(run(all_gather, world_size=world_size), [whole] * world_size)
    assert_same(run(gather, world_size=world_size), [whole if rank == 1 else None for rank in range(world_size)])
    assert_same(run(broadcast, world_size=world_size), [[thing(1), "second"]] * world_size)
    assert_same(run(scatter, world_size=world_size), whole)


@pytest.mark.parametrize("world_size", [2, 4])
def test_objects_point_to_point(run: Runner, world_size: int) -> None:
    wanted = [thing((rank - 1) % world_size) for rank in range(world_size)]
    assert_same(run(pass_on, world_size=world_size), wanted)
