"""Random collective calls against the NumPy oracle.

A *program* is a list of cases that all ranks run; hypothesis makes it and, when a result is wrong, shrinks it. The
examples are the same on every run; `MERAK_TEST_EXAMPLES=1000` tries more of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backend import calls, oracle
from tests.backend.conftest import BACKEND
from tests.backend.harness import Context
from tests.backend.oracle import Case

Runner = Callable[..., list[Any]]
EXAMPLES = settings(
    max_examples=int(os.environ.get("MERAK_TEST_EXAMPLES", "80")), deadline=None, derandomize=True, database=None
)

SHAPES = st.one_of(
    st.sampled_from([(), (0,), (1,), (2, 0, 3), (7,), (3, 5), (2, 3, 4), (1025,), (257, 129)]),
    st.lists(st.integers(0, 6), max_size=4).map(tuple),
)


@st.composite
def cases(draw: st.DrawFn, size: int) -> Case:
    operation = draw(st.sampled_from(oracle.OPERATIONS))
    dtype = draw(st.sampled_from(oracle.DTYPES))
    reduction = draw(st.sampled_from(oracle.REDUCTIONS[dtype])) if operation in oracle.REDUCING else "none"
    return Case(
        operation=operation,
        dtype=dtype,
        shape=draw(SHAPES),
        reduction=reduction,
        root=draw(st.integers(0, size - 1)),
        strided=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[int, list[Case]]:
    size = draw(st.integers(1, 5))
    wanted = cases(size) if BACKEND != "gloo" else cases(size).filter(Case.runs_on_gloo)
    return size, draw(st.lists(wanted, min_size=1, max_size=8))


def check(size: int, program: Sequence[Case], results: Sequence[Sequence[list[torch.Tensor] | None]]) -> None:
    """Compares every rank's result of every case with the oracle's, bit for bit."""
    for rank in range(size):
        for case, got in zip(program, results[rank], strict=True):
            wanted = oracle.expected(case, rank, size)
            assert (got is None) == (wanted is None)
            if got is not None and wanted is not None:
                np.testing.assert_array_equal(oracle.flat(got), oracle.flat_arrays(wanted), f"rank {rank}: {case}")


def one_after_another(context: Context, program: list[Case]) -> list[list[torch.Tensor] | None]:
    return [calls.start(case, context.rank, context.world_size).finish() for case in program]


def started_together(context: Context, program: list[Case], groups: int) -> list[list[torch.Tensor] | None]:
    """Deals the cases to several groups, starts those of different groups in an order of this rank's own (within a
    group the order is the same everywhere, as torch demands), and waits for them in another."""
    made = [dist.new_group(list(range(context.world_size))) for _ in range(groups)]
    shuffled = random.Random(context.rank)
    turns = [index % groups for index in range(len(program))]
    shuffled.shuffle(turns)
    queues = [list(range(group, len(program), groups)) for group in range(groups)]
    flying: dict[int, calls.Call] = {}
    for turn in turns:
        index = queues[turn].pop(0)
        flying[index] = calls.start(program[index], context.rank, context.world_size, made[turn])
    order = list(flying)
    shuffled.shuffle(order)
    results = {index: flying[index].finish() for index in order}
    return [results[index] for index in range(len(program))]


def test_each_collective_equals_the_oracle(run: Runner) -> None:
    @EXAMPLES
    @given(programs())
    def property_holds(example: tuple[int, list[Case]]) -> None:
        size, program = example
        check(size, program, run(one_after_another, program, world_size=size))

    property_holds()


def test_ranks_may_start_and_await_in_different_orders(run: Runner) -> None:
    @EXAMPLES
    @given(programs(), st.integers(1, 3))
    def property_holds(example: tuple[int, list[Case]], groups: int) -> None:
        size, program = example
        check(size, program, run(started_together, program, groups, world_size=size))

    property_holds()


@pytest.mark.parametrize("dtype", oracle.DTYPES)
@pytest.mark.parametrize("operation", oracle.REDUCING)
def test_every_reduction_of_every_dtype(run: Runner, operation: str, dtype: str) -> None:
    shapes = [(), (33,), (1000,)]
    program = [Case(operation, dtype, shape, reduction) for reduction in oracle.REDUCTIONS[dtype] for shape in shapes]
    if BACKEND == "gloo":
        program = [case for case in program if case.runs_on_gloo()]
    check(3, program, run(one_after_another, program, world_size=3))


@pytest.mark.parametrize("size", [2, 3, pytest.param(4, marks=pytest.mark.slow), 5])
def test_sizes_around_every_change_of_algorithm(run: Runner, size: int) -> None:
    """The choice of program depends on the bytes; segments and chunks have remainders at odd sizes."""
    shapes = [(2**exponent + odd,) for exponent in (8, 11, 14, 17, 19) for odd in (-1, 0, 1)]
    program = [
        Case(operation, "float32", shape, root=size - 1, seed=size)
        for shape in shapes
        for operation in oracle.OPERATIONS
        if shape[0] < 2**18 or operation in ("all_reduce", "broadcast", "reduce", "reduce_scatter_tensor")
    ]
    check(size, program, run(one_after_another, program, world_size=size, deadline=120.0))


def sums_of_noise(context: Context, elements: int) -> torch.Tensor:
    x = torch.randn(elements, generator=torch.Generator().manual_seed(context.rank))
    dist.all_reduce(x)
    return x


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("elements", [1, 1000, 100_003])
def test_inexact_sums_are_close_and_the_same_bits_on_every_rank(run: Runner, size: int, elements: int) -> None:
    sums = run(sums_of_noise, elements, world_size=size)
    inputs = [torch.randn(elements, generator=torch.Generator().manual_seed(rank)).double() for rank in range(size)]
    torch.testing.assert_close(sums[0].double(), torch.stack(inputs).sum(0), rtol=1e-6, atol=1e-5)
    for other in sums[1:]:
        assert torch.equal(sums[0], other)


def sums_of_specials(context: Context) -> torch.Tensor:
    x = torch.tensor([float("inf"), float("nan"), 1.0, float("inf"), -0.0])
    if context.rank == 1:
        x = torch.tensor([1.0, 2.0, float("nan"), float("-inf"), -0.0])
    dist.all_reduce(x)
    return x


def test_infinities_and_nans_reach_every_rank(run: Runner) -> None:
    inf, nan = float("inf"), float("nan")
    for got in run(sums_of_specials, world_size=2):
        np.testing.assert_array_equal(got.numpy(), np.array([inf, nan, nan, nan, -0.0], dtype=np.float32))
