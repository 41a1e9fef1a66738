"""What one rank can see to be wrong is refused there, with ValueError and a text that says what to do. When all ranks
refuse, the group still works afterwards; ranks that do take part are told of one that does not."""

from __future__ import annotations

import re
import time
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
    "strided output": (
        lambda c: dist.all_reduce(strided()),
        "all_reduce: what is written to must be contiguous.* of the tensors .*strides",
    ),
    "expanded output": (lambda c: dist.all_reduce(torch.zeros(1).expand(3)), "must be contiguous"),
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
        "ReduceOp.SUM on uint16 tensors is not supported.*Convert",
    ),
    "sum of float8": (lambda c: dist.all_reduce(torch.zeros(3).to(torch.float8_e4m3fn)), "moves this dtype"),
    "and of floats": (
        lambda c: dist.all_reduce(torch.zeros(3), dist.ReduceOp.BAND),
        "ReduceOp.BAND on float32 tensors is not supported: bitwise",
    ),
    "average of integers": (
        lambda c: dist.all_reduce(torch.zeros(3, dtype=torch.int32), dist.ReduceOp.AVG),
        "ReduceOp.AVG on int32 tensors is not supported: use SUM",
    ),
    "sparse broadcast": (lambda c: broadcast_below_python(torch.eye(3).to_sparse()), "layout Sparse.*to_dense"),
    "splits that do not add up": (uneven_splits, "all_to_all: the split sizes for the output do not add up to its 4"),
    "splits that overflow": (
        lambda c: dist.all_to_all_single(torch.zeros(4), torch.zeros(4), *[[2**63 - 1, 2**63 - 1]] * 2),
        "all_to_all: a split size for the input is 9223372036854775807; it has 4 rows",
    ),
    "an own part of two sizes": (
        lambda c: dist.all_to_all_single(torch.zeros(4), torch.zeros(4), [1, 3], [2, 2]),
        "all_to_all: the part that this rank sends to itself has 8 bytes in the input and (4|12) in the output",
    ),
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


def other_operation_after_a_while(context: Context) -> object:
    """What rank 1 sends is there before rank 0's operation begins, which expects nothing of rank 1."""
    dist.all_reduce(torch.zeros(1))
    time.sleep(0 if context.rank else 0.5)
    return other_operation(context)


def other_root(context: Context) -> object:
    return dist.broadcast(torch.zeros(3), context.rank)


def other_type_that_is_only_moved(context: Context) -> object:
    return dist.broadcast(torch.zeros(8 >> context.rank, dtype=(torch.uint16, torch.uint32)[context.rank]), 0)


def other_shape_of_a_sparse_tensor(context: Context) -> object:
    x = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (4 + context.rank,))
    return dist.all_reduce(x)


def other_reduction(context: Context) -> object:
    return dist.all_reduce(torch.zeros(3), dist.ReduceOp.MAX if context.rank else dist.ReduceOp.MIN)


DISAGREEMENTS: dict[str, tuple[Wrong, str]] = {
    "size": (other_size, r"float32, sum, 1[26] bytes"),
    "dtype": (other_dtype, r"int32"),
    "operation": (other_operation, r"broadcast"),
    "operation, after a while": (other_operation_after_a_while, r"broadcast"),
    "root": (other_root, r"root"),
    "reduction": (other_reduction, r"max"),
    "moved type": (other_type_that_is_only_moved, r"uint16.*uint32|uint32.*uint16"),
    "sparse shape": (other_shape_of_a_sparse_tensor, r"same shape"),
}


def disagreeing(context: Context, name: str) -> str:
    with pytest.raises(dist.DistError) as caught:
        _ = DISAGREEMENTS[name][0](context), dist.barrier()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_disagreement_is_raised_on_every_rank(run: Runner, name: str) -> None:
    for text in run(disagreeing, name):
        assert re.search(DISAGREEMENTS[name][1], text), text


def refused_by_one(context: Context, first: bool) -> str:
    """Rank 1 handles its ValueError, and goes on to the next collective; `first`: in a group not used before."""
    if not first:
        dist.barrier()
    if context.rank == 1:
        with pytest.raises(ValueError, match="contiguous"):
            dist.all_reduce(torch.zeros(2, 3).t())
    with pytest.raises(dist.DistBackendError) as caught:
        _ = dist.all_reduce(torch.zeros(2, 3)), dist.barrier()
    context.store.set(f"raised{context.rank}", "yes")  # who leaves now could not tell the others any more
    context.store.wait([f"raised{rank}" for rank in range(context.world_size)])
    return str(caught.value)


@pytest.mark.parametrize("first", [True, False])
def test_what_one_rank_refuses_is_raised_on_the_others(run: Runner, first: bool) -> None:
    for text in run(refused_by_one, first, world_size=3):
        assert re.search(r"rank 1 refused the arguments|rank [02] and rank 1 disagree", text), text


def splits_or_none(context: Context) -> list[float]:
    x, y = torch.arange(4.0) + 10 * context.rank, torch.zeros(4)
    dist.all_to_all_single(y, x, *([] if context.rank == 0 else [[2, 2], [2, 2]]))
    return y.tolist()


def test_even_splits_may_be_given_or_not(run: Runner) -> None:
    assert run(splits_or_none) == [[0, 1, 10, 11], [2, 3, 12, 13]]
