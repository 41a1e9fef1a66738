"""Under TORCH_DISTRIBUTED_DEBUG=DETAIL torch wraps the backend and compares every call between ranks beforehand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.backend import calls, oracle, test_ddp
from tests.backend.comparison import assert_same
from tests.backend.conftest import BACKEND
from tests.backend.harness import Context
from tests.backend.oracle import Case
from tests.backend.test_collectives_property import check

Runner = Callable[..., list[Any]]
PROGRAM = [Case(operation, "float32", (3, 5), root=1, seed=9) for operation in oracle.OPERATIONS]


@contextlib.contextmanager
def in_detail(context: Context) -> Iterator[None]:
    """Replaces the default group by one made at the debug level DETAIL."""
    dist.destroy_process_group()
    os.environ["TORCH_DISTRIBUTED_DEBUG"] = "DETAIL"  # DDP's logger reads it too
    dist.set_debug_level_from_env()
    store = dist.PrefixStore("detail", context.store)
    dist.init_process_group(context.backend, store=store, rank=context.rank, world_size=context.world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
        del os.environ["TORCH_DISTRIBUTED_DEBUG"]
        dist.set_debug_level_from_env()


def collectives(context: Context) -> list[list[torch.Tensor] | None]:
    with in_detail(context):
        return [calls.start(case, context.rank, context.world_size).finish() for case in PROGRAM]


def test_every_collective_in_detail(run: Runner) -> None:
    check(3, PROGRAM, run(collectives, world_size=3))


def train(context: Context) -> Any:
    with in_detail(context):
        return test_ddp.train(context, test_ddp.BUCKETS_OF_2_KIB)


def train_plainly(context: Context) -> Any:
    return test_ddp.train(context, test_ddp.BUCKETS_OF_2_KIB)


@pytest.mark.skipif(BACKEND == "gloo", reason="DDP's logger crashes on a wrapped Gloo")
def test_training_in_detail_changes_no_bit(run: Runner) -> None:
    assert_same(run(train), run(train_plainly))


def disagree(context: Context, about: str) -> str:
    with in_detail(context):
        try:
            if about == "shape":
                dist.all_reduce(torch.ones(3 + context.rank))
            elif context.rank == 0:
                dist.all_reduce(torch.ones(3))
            else:
                dist.broadcast(torch.ones(3), 0)
        except RuntimeError as error:
            return str(error)
    return "accepted"


def test_calls_that_differ_are_named_on_every_rank(run: Runner) -> None:
    for text in run(disagree, "shape"):
        assert "mismatch" in text
        assert "shapes" in text.lower()
    for text in run(disagree, "operation"):
        assert "ALLREDUCE" in text
        assert "BROADCAST" in text
