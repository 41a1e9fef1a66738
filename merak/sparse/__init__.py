"""The room `sparse`: all-reduce of tensors of which each rank has only a few rows.

    y = merak.sparse.all_reduce(x)        # x: sparse COO, or dense with rows of zeros; y: laid out alike

Every rank tells the others in a bitmap which rows it has; from these all of them make the same plan, and what then
crosses the network is rows. The sum is exact, the same bits on every rank and from run to run.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Literal, overload

import torch
import torch.distributed as dist

import merak.backend

if TYPE_CHECKING:
    from merak._torch_compat import ProcessGroup

__all__ = ["Method", "Plan", "all_reduce", "explain"]

Method = Literal["auto", "dense", "gather", "packed", "balanced"]
"""How rows travel. All give the sum of the ranks' rows, "gather" and "balanced" added up in the order of ranks:

* ``"auto"``: the cheapest of the others, by their formulas and what the bitmaps say;
* ``"gather"``: everyone sends its rows to everyone;
* ``"balanced"``: each row has an owner, which adds up what the others send it and sends the sum to all;
* ``"packed"``: a dense all-reduce of the rows that any rank has;
* ``"dense"``: a dense all-reduce of the whole tensor.
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one tensor would be reduced: the same on all ranks. `str(plan)` is a table."""

    method: str
    union_rows: int
    """Rows that any rank has."""
    rank_rows: tuple[int, ...]
    """By rank: the rows that it has."""
    prices: dict[str, tuple[float, int]]
    """By method: seconds by its formula, and the bytes that the busiest rank sends or receives."""

    def __str__(self) -> str:
        ranks = ", ".join(map(str, self.rank_rows))
        lines = [f"{self.union_rows} rows in the union; by rank: {ranks}", f"{'method':10} {'ms':>10} {'MB':>10}"]
        for method, (seconds, nbytes) in self.prices.items():
            chosen = " <-" if method == self.method else ""
            lines.append(f"{method:10} {seconds * 1e3:10.3f} {nbytes / 1e6:10.3f}{chosen}")
        return "\n".join(lines)


def explain(
    x: torch.Tensor,
    group: ProcessGroup | None = None,
    method: Method = "auto",
    timeout: datetime.timedelta | None = None,
) -> Plan:
    """What `all_reduce` would do with the ranks' tensors. Collective: the ranks exchange bitmaps, but no rows.

    Arguments and errors are those of `all_reduce`.
    """
    backend = merak.backend.of_group(group)
    ((chosen, union_rows, rank_rows, prices),) = backend.sparse_plans([x], method, timeout or datetime.timedelta(0))
    return Plan(chosen, union_rows, tuple(rank_rows), {name: (seconds, size) for name, seconds, size in prices})


@overload
def all_reduce(
    x: torch.Tensor,
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = ...,
    group: ProcessGroup | None = ...,
    method: Method = ...,
    async_op: Literal[False] = ...,
    timeout: datetime.timedelta | None = ...,
) -> torch.Tensor: ...
@overload
def all_reduce(
    x: torch.Tensor,
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = ...,
    group: ProcessGroup | None = ...,
    method: Method = ...,
    *,
    async_op: Literal[True],
    timeout: datetime.timedelta | None = ...,
) -> dist.Work: ...
def all_reduce(
    x: torch.Tensor,
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    group: ProcessGroup | None = None,
    method: Method = "auto",
    async_op: bool = False,
    timeout: datetime.timedelta | None = None,
) -> torch.Tensor | dist.Work:
    """The sum, or average, of the ranks' tensors; out of place.

    Args:
        x: on CPU, of the same shape and dtype (float32, float64, bfloat16, float16, int32, int64) on all ranks. Sparse
            COO, coalesced or not; or dense: then rows whose bits are all zero are not sent (of a 1-D tensor, blocks of
            64 elements).
        op: SUM or AVG (of floating-point types).
        group: a group of backend "merak"; the default group if None.
        method: see `Method`; the same on all ranks.
        async_op: return a Work at once; after its wait(), `result()[0]` is the tensor.
        timeout: the group's, if None.

    Returns:
        A tensor of x's layout, a COO one coalesced; the same bits on every rank.

    Raises:
        ValueError: this rank's arguments are wrong.
        torch.distributed.DistBackendError: the ranks' arguments do not fit together, or one rank's indices are out of
            range (on all ranks), or the timeout has passed.
        torch.distributed.DistNetworkError: a rank has died or left.
    """
    backend = merak.backend.of_group(group)
    operator = op if isinstance(op, dist.ReduceOp) else dist.ReduceOp(op)
    work = backend.sparse_all_reduce([x], operator, method, timeout or datetime.timedelta(0))
    if async_op:
        return work
    work.wait()
    result: torch.Tensor = work.get_future().wait()[0]
    return result
