"""Timeouts: of one call, of the group, of a monitored barrier."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.backend.conftest import BACKEND
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]
LATE_SECONDS = 3.0


def wait_for_an_absent_peer(context: Context, how: str) -> tuple[float, str]:
    """Rank 0's seconds and error; rank 1 never calls."""
    if context.rank == 1:
        context.store.wait(["done"])
        return 0.0, ""
    started = time.monotonic()
    text = "no error"
    try:
        if how == "wait":
            dist.all_reduce(torch.ones(4), async_op=True).wait(datetime.timedelta(seconds=1))
        else:
            dist.distributed_c10d.set_timeout(datetime.timedelta(seconds=1))
            dist.all_reduce(torch.ones(4))
    except RuntimeError as error:
        text = str(error)
    seconds = time.monotonic() - started
    context.store.set("done", "")
    return seconds, text


@pytest.mark.skipif(BACKEND == "gloo", reason="the text is merak's")
@pytest.mark.parametrize("how", ["wait", "group"])
def test_a_call_ends_with_its_timeout(run: Runner, how: str) -> None:
    seconds, text = run(wait_for_an_absent_peer, how)[0]
    assert 0.9 < seconds < 1.0 + LATE_SECONDS
    assert "all_reduce" in text


def monitored(context: Context) -> str:
    """What rank 0 hears from a monitored barrier to which the last rank does not come."""
    dist.monitored_barrier()
    if context.rank == context.world_size - 1:
        context.store.wait(["done"])
        return ""
    try:
        dist.monitored_barrier(timeout=datetime.timedelta(seconds=1))
    except RuntimeError as error:
        return str(error)
    finally:
        if context.rank == 0:
            context.store.set("done", "")
    return "no error"


def test_monitored_barrier_names_the_missing_rank(run: Runner) -> None:
    assert "Rank 2 failed to pass monitoredBarrier" in run(monitored, world_size=3)[0]


def late_ranks(context: Context) -> float:
    """All but rank 0 come to the barrier late."""
    if context.rank != 0:
        time.sleep(0.5)
    started = time.monotonic()
    dist.barrier()
    return time.monotonic() - started


def test_barrier_waits_for_the_last(run: Runner) -> None:
    seconds = run(late_ranks, world_size=3)
    assert seconds[0] > 0.4
