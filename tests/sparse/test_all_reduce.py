"""merak.sparse.all_reduce, and dist.all_reduce of sparse tensors, against sums of dense tensors."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import merak.sparse
from tests.backend.harness import Context, RankPool

Runner = Callable[..., list[Any]]
METHODS = [method for method in get_args(merak.sparse.Method) if method != "sketch"]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.int64)
EXAMPLES = settings(
    max_examples=int(os.environ.get("MERAK_TEST_EXAMPLES", "60")), deadline=None, derandomize=True, database=None
)


def contribution(seed: int, rank: int, shape: tuple[int, ...], sparse_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """What a rank has: a few entries, some of them several times; of integer values, small enough to add exactly."""
    random = torch.Generator().manual_seed(1000 * seed + rank)
    count = int(torch.randint(0, 40, (), generator=random)) * (rank != seed % 5)
    indices = torch.stack([torch.randint(0, size, (count,), generator=random) for size in shape[:sparse_dim]])
    values = torch.randint(-9, 10, (count, *shape[sparse_dim:]), generator=random).to(dtype)
    x = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
    return x.coalesce() if seed % 3 == 0 else x


def reduce_one(
    context: Context, seed: int, shape: tuple[int, ...], sparse_dim: int, dtype: torch.dtype, method: str, dense: bool
) -> None:
    parts = [contribution(seed, rank, shape, sparse_dim, dtype) for rank in range(context.world_size)]
    expected = torch.zeros(shape, dtype=dtype)
    for part in parts:
        expected += part.to_dense()
    mine = parts[context.rank].to_dense() if dense else parts[context.rank]
    before = mine.clone()
    y = merak.sparse.all_reduce(mine, method=method)  # type: ignore[arg-type]
    assert y.layout == mine.layout
    assert y.dtype == dtype
    assert torch.equal(y.to_dense(), expected)
    assert torch.equal(mine.to_dense(), before.to_dense())
    if not dense:
        assert y.is_coalesced()
        torch.sparse_coo_tensor(y.indices(), y.values(), shape, check_invariants=True)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    shape = tuple(draw(st.lists(st.integers(1, 70), min_size=1, max_size=3)))
    return shape, draw(st.integers(1, len(shape)))


@EXAMPLES
@given(
    seed=st.integers(0, 2**20),
    shape=shapes(),
    dtype=st.sampled_from(DTYPES),
    method=st.sampled_from(METHODS),
    dense=st.booleans(),
    world_size=st.integers(1, 5),
)
def test_integers_add_up_exactly(
    pool: RankPool,
    seed: int,
    shape: tuple[tuple[int, ...], int],
    dtype: torch.dtype,
    method: str,
    dense: bool,
    world_size: int,
) -> None:
    pool.run(reduce_one, seed, *shape, dtype, method, dense, world_size=world_size)


def floats(context: Context, method: str) -> bytes:
    random = torch.Generator().manual_seed(context.rank)
    x = torch.sparse_coo_tensor(
        torch.randint(0, 50, (1, 80), generator=random), torch.randn(80, 33, generator=random), (50, 33)
    )
    again = merak.sparse.all_reduce(x, method=method)  # type: ignore[arg-type]
    y = merak.sparse.all_reduce(x, method=method)  # type: ignore[arg-type]
    assert torch.equal(again.to_dense(), y.to_dense())
    return y.to_dense().numpy().tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_floats_are_the_same_bits_everywhere_and_every_time(run: Runner, method: str) -> None:
    assert len(set(run(floats, method, world_size=4))) == 1


def special_values(context: Context, method: str) -> tuple[list[float], list[bool]]:
    x = torch.zeros(4, 3)
    x[0] = -0.0  # the same everywhere
    x[1, 0] = (torch.inf, -torch.inf)[context.rank]
    x[2] = torch.tensor([1.0, -1.0, 0.0])  # sums to zero, but is not
    if context.rank == 0:
        x[3] = -0.0
        x[3, 1] = torch.nan
    y = merak.sparse.all_reduce(x, method=method)  # type: ignore[arg-type]
    z = x.clone()
    dist.all_reduce(z)
    assert torch.equal(y.isnan(), z.isnan())
    return y.nan_to_num(7.0).flatten().tolist(), (y.signbit() == z.signbit())[~y.isnan()].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_special_values_are_as_in_a_dense_all_reduce(run: Runner, method: str) -> None:
    for values, same_signs in run(special_values, method):
        assert values == [0, 0, 0, 7, 0, 0, 2, -2, 0, 0, 7, 0]
        assert all(same_signs)


def average(context: Context) -> list[float]:
    x = torch.sparse_coo_tensor([[1, 2 + context.rank]], torch.tensor([[3.0], [6.0]]), (5, 1), check_invariants=True)
    return merak.sparse.all_reduce(x, op=dist.ReduceOp.AVG).to_dense().flatten().tolist()


def test_average(run: Runner) -> None:
    assert run(average, world_size=3) == [[0, 3, 2, 2, 2]] * 3


def in_place_and_async(context: Context) -> None:
    def mine() -> torch.Tensor:
        return torch.sparse_coo_tensor([[0, 3, 3]], torch.ones(3, 2), (4, 2), check_invariants=True)

    size = context.world_size
    x = mine()
    work = dist.all_reduce(x, async_op=True)
    other = merak.sparse.all_reduce(mine(), async_op=True)
    ones = torch.ones(3)
    dist.all_reduce(ones)
    assert ones.tolist() == [size] * 3
    work.wait()
    assert x.is_coalesced()
    assert x.to_dense().tolist() == [[size] * 2, [0, 0], [0, 0], [2 * size] * 2]
    other.wait()
    assert torch.equal(other.get_future().wait()[0].to_dense(), x.to_dense())


def test_in_place_and_async(run: Runner) -> None:
    run(in_place_and_async, world_size=3)


def disagreeing(context: Context, what: str) -> str:
    rank = context.rank
    indices = torch.tensor([[rank]])
    x = torch.sparse_coo_tensor(indices, torch.ones(1, 2), (5, 2), check_invariants=True)
    method: Any = "auto"
    if what == "rows" and rank == 1:
        x = torch.sparse_coo_tensor(indices, torch.ones(1, 2), (6, 2))
    if what == "columns" and rank == 1:
        x = torch.sparse_coo_tensor(indices, torch.ones(1, 3), (5, 3))
    if what == "dtype" and rank == 1:
        x = x.double()
    if what == "method" and rank == 1:
        method = "gather"
    if what == "index out of range" and rank == 1:
        x._indices()[0, 0] = 5
    if what == "missing rank" and rank == 1:
        time.sleep(2)
        return "rank 0: timeout"
    start = time.monotonic()
    with pytest.raises(dist.DistBackendError) as caught:
        merak.sparse.all_reduce(
            x, method=method, timeout=datetime.timedelta(seconds=1 if what == "missing rank" else 20)
        )
    assert time.monotonic() - start < 10
    return str(caught.value)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("rows", "same shape"),
        ("columns", "same shape"),
        ("dtype", "float64"),
        ("method", "method"),
        ("index out of range", "rank 1 cannot take part: index 5 of dimension 0"),
        ("missing rank", "timeout"),
    ],
)
def test_ranks_that_do_not_fit_together_are_all_told(run: Runner, what: str, said: str) -> None:
    for text in run(disagreeing, what):
        assert said in text


def refused(context: Context) -> list[str]:
    coo = torch.eye(3).to_sparse()
    texts = []
    for x, options in (
        (coo.to_sparse_csr(), {}),
        (torch.eye(3, device="meta"), {}),
        (coo, {"op": dist.ReduceOp.MAX}),
        (coo, {"method": "magic"}),
        (coo.bool(), {}),
        (coo.int(), {"op": dist.ReduceOp.AVG}),
    ):
        with pytest.raises(ValueError, match="sparse") as caught:
            merak.sparse.all_reduce(x, **options)
        texts.append(str(caught.value))
    assert torch.equal(merak.sparse.all_reduce(coo).to_dense(), torch.eye(3) * context.world_size)
    return texts


def test_wrong_arguments_are_refused_and_the_group_goes_on(run: Runner) -> None:
    for csr, meta, maximum, method, boolean, average_of_integers in run(refused):
        assert ".to_sparse_coo()" in csr
        assert "CPU or CUDA" in meta
        assert "SUM or AVG" in maximum
        assert "'balanced'" in method
        assert "convert to float32" in boolean
        assert "use SUM and divide" in average_of_integers


def on_gloo(context: Context) -> None:
    with pytest.raises(ValueError, match="'merak' is needed"):
        merak.sparse.all_reduce(torch.ones(3))


def test_another_backend_is_refused(run: Runner) -> None:
    run(on_gloo, backend="gloo")


def nothing(context: Context) -> None:
    for method in METHODS:
        for shape in ((0,), (0, 3), (5, 0), (4, 0, 2)):
            assert merak.sparse.all_reduce(torch.zeros(shape), method=method).shape == shape
            empty = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, *shape[1:]), shape)
            assert merak.sparse.all_reduce(empty, method=method).shape == shape
        rows = torch.sparse_coo_tensor(torch.tensor([[1, 2]]), torch.zeros(2, 0), (5, 0))
        assert merak.sparse.all_reduce(rows, method=method).shape == (5, 0)
        number = torch.tensor(2.0)
        assert merak.sparse.all_reduce(number, method=method).item() == 2.0 * context.world_size


def test_tensors_without_elements_and_without_dimensions(run: Runner) -> None:
    run(nothing)


def explained(context: Context) -> merak.sparse.Plan:
    x = torch.zeros(100, 8)
    x[: 10 + context.rank] = 1
    return merak.sparse.explain(x)


def test_the_plan_is_the_same_everywhere_and_says_what_it_would_cost(run: Runner) -> None:
    first, *others = run(explained, world_size=3)
    assert others == [first] * 2
    assert first.union_rows == 12
    assert first.rank_rows == (10, 11, 12)
    assert set(first.prices) == {"dense", "gather", "packed", "balanced", "sketch-exact"}
    assert first.prices["gather"][1] == 2 * 12 * 32
    assert min(first.prices, key=lambda method: first.prices[method][0]) == first.method
    assert f"{first.method:10}" in str(first)


def several(context: Context) -> None:
    size = context.world_size
    ids = torch.tensor([[context.rank, 4]])
    sparse = torch.sparse_coo_tensor(ids, torch.ones(2, 3), (9, 3), check_invariants=True)
    dense = torch.zeros(200)
    dense[7 * context.rank] = 1
    before = merak.sparse.statistics()
    sums = merak.sparse.all_reduce_coalesced([sparse, dense])
    assert isinstance(sums, list)
    assert sums[0].to_dense().sum(1).tolist() == [3 * (row < size) for row in range(4)] + [3 * size, 0, 0, 0, 0]
    assert sums[1].sum() == size
    after = merak.sparse.statistics()
    assert sum(after["tables"].values()) == sum(before["tables"].values()) + 2
    assert after["table_rows"] - before["table_rows"] == 9 + 4
    assert after["union_rows"] - before["union_rows"] == size + 1 + 1
    assert after["own_rows"] - before["own_rows"] == 2 + 1
    assert after["announced_bytes"] > before["announced_bytes"]
    assert after["waited_seconds"] > before["waited_seconds"]
    until = time.monotonic() + 10  # counted by a callback, which may come after the waiter
    while merak.sparse.statistics()["seconds"] <= before["seconds"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_several_tensors_in_one_exchange(run: Runner) -> None:
    run(several, world_size=3)
