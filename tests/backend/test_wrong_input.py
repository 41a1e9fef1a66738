"""What one rank can see to be wrong is refused there, with ValueError and a text that says what to do; and the group
still works afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from tests.backend.conftest import Runner
from tests.backend.harness import Context

Wrong = Callable[[Context], object]


def strided() -> torch.Tensor:
    return torch.zeros(4, 4).t()[:, :2]


def shared_rows(context: Context) -> list[torch.Tensor]:
    memory = torch.zeros(context.world_size + 3)
    return [memory[rank : rank + 4] for rank in range(context.world_size)]


def uneven_splits(context: Context) -> object:
    return dist.all_to_all_single(torch.zeros(4), torch.zeros(4), [1, 1], [2, 2])


def broadcast_below_python(tensor: torch.Tensor) -> object:
    options = dist.BroadcastOptions()
    return dist.group.WORLD._get_backend(torch.device("cpu")).broadcast([tensor], options)


WRONG: dict[str, tuple[Wrong, str]] = {
    "strided output": (lambda c: dist.all_reduce(strided()), "all_reduce: what is written to must be contiguous.* of the tensors .*strides"),
    "expanded output": (lambda c: dist.all_reduce(torch.zeros(1).expand(3)), "not contiguous"),
    "strided broadcast": (lambda c: dist.broadcast(strided(), 0), "broadcast: what is written to must be contiguous"),
    "outputs that share memory": (
        lambda c: dist.all_gather(shared_rows(c), torch.zeros(4)),
        "all_gather: two tensors of the outputs share memory",
    ),
    "outputs of another size": (
        lambda c: dist.all_gather([torch.zeros(3)] * c.world_size, torch.zeros(4)),
        "all_gather: an output is float32.*3.* where 4 elements",
    ),
    "output too small": (lambda c: dist.all_gather_into_tensor(torch.zeros(4), torch.zeros(4)), "8 elements"),
    "input too small": (lambda c: dist.reduce_scatter_tensor(torch.zeros(4), torch.zeros(4)), "8 elements"),
    "sum of uint16": (
        lambda c: dist.all_reduce(torch.zeros(3, dtype=torch.uint16)),
        "ReduceOp.SUM on UInt16 tensors is not supported.*Convert",
    ),
    "sum of float8": (lambda c: dist.all_reduce(torch.zeros(3).to(torch.float8_e4m3fn)), "moves this dtype"),
    "and of floats": (
        lambda c: dist.all_reduce(torch.zeros(3), dist.ReduceOp.BAND),
        "ReduceOp.BAND on float32 tensors is not supported: bitwise",
    ),
    "average of integers": (
        lambda c: dist.all_reduce(torch.zeros(3, dtype=torch.int32), dist.ReduceOp.AVG),
        "ReduceOp.AVG on Int tensors is not supported: use SUM",
    ),
    "sparse broadcast": (lambda c: broadcast_below_python(torch.eye(3).to_sparse()), "layout Sparse.*to_dense"),
    "splits that do not add up": (uneven_splits, "all_to_all: the split sizes for the output do not add up to its 4"),
    "rows that cannot be divided": (
        lambda c: dist.all_to_all_single(torch.zeros(3), torch.zeros(3)),
        "all_to_all: dimension 0 of the input has 3 rows.*split sizes",
    ),
    "negative tag": (lambda c: dist.isend(torch.zeros(1), 1 - c.rank, tag=-1), "tag is -1"),
}


def refused(context: Context, name: str) -> str:
    call, _ = WRONG[name]
    with pytest.raises((ValueError, RuntimeError)) as caught:
        call(context)
    after = torch.ones(3)
    dist.all_reduce(after)
    assert after.tolist() == [2.0] * 3
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused(run: Runner, name: str) -> None:
    for text in run(refused, name):
        assert text.startswith("ValueError: "), text
        assert re.search(WRONG[name][1], text), text


# What ranks disagree about is found by the engine, and raised on all of them: at the latest by the next operation on a
# rank that only had to send a small message, and was done with it.


def other_size(context: Context) -> object:
    return dist.all_reduce(torch.zeros(3 + context.rank))


def other_dtype(context: Context) -> object:
    return dist.all_reduce(torch.zeros(3, dtype=torch.int32 if context.rank else torch.float32))


def other_operation(context: Context) -> object:
    return dist.all_reduce(torch.zeros(3)) if context.rank else dist.broadcast(torch.zeros(3), 0)


def other_root(context: Context) -> object:
    return dist.broadcast(torch.zeros(3), context.rank)


def other_reduction(context: Context) -> object:
    return dist.all_reduce(torch.zeros(3), dist.ReduceOp.MAX if context.rank else dist.ReduceOp.MIN)


DISAGREEMENTS: dict[str, tuple[Wrong, str]] = {
    "size": (other_size, r"float32, sum, 1[26] bytes"),
    "dtype": (other_dtype, r"int32"),
    "operation": (other_operation, r"broadcast"),
    "root": (other_root, r"root"),
    "reduction": (other_reduction, r"max"),
}


def disagreeing(context: Context, name: str) -> str:
    with pytest.raises(dist.DistError) as caught:
        _ = DISAGREEMENTS[name][0](context), dist.barrier()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_disagreement_is_raised_on_every_rank(run: Runner, name: str) -> None:
    for text in run(disagreeing, name):
        assert re.search(DISAGREEMENTS[name][1], text), text
