"""Messages over 2 GiB, whose sizes do not fit 32 bits. Slow: gigabytes through the loopback, and memory for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.backend.harness import Context

pytestmark = pytest.mark.slow
Runner = Callable[..., list[Any]]
ELEMENTS = 2**31 + 5


def pattern(seed: int) -> torch.Tensor:
    """`ELEMENTS` bytes, few of them 0, whose period is prime: misplaced bytes differ."""
    return (torch.arange(65521) * 31 + seed).to(torch.uint8).repeat(ELEMENTS // 65521 + 1)[:ELEMENTS]


def broadcast(context: Context) -> bool:
    x = pattern(1) if context.rank == 0 else torch.zeros(ELEMENTS, dtype=torch.uint8)
    dist.broadcast(x, 0)
    return torch.equal(x, pattern(1))


def all_reduce(context: Context) -> bool:
    x = pattern(context.rank)
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return torch.equal(x, torch.maximum(pattern(0), pattern(1)))


def send(context: Context) -> bool:
    x = pattern(2) if context.rank == 0 else torch.zeros(ELEMENTS, dtype=torch.uint8)
    if context.rank == 0:
        dist.send(x, 1)
    else:
        dist.recv(x, 0)
    return torch.equal(x, pattern(2))


@pytest.mark.parametrize("body", [broadcast, all_reduce, send])
def test_more_than_two_gibibytes(run: Runner, body: Callable[[Context], bool]) -> None:
    assert run(body, deadline=400.0) == [True, True]
