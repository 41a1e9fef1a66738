"""The operations of the room."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, cast, overload

import torch
import torch.distributed as dist

import merak.backend
from merak import _C

if TYPE_CHECKING:
    from merak._C import Backend
    from merak._torch_compat import ProcessGroup
    from merak.sparse.codec import SketchCodec

NO_TIMEOUT = datetime.timedelta(0)
"""What stands for the group's own timeout."""

Method = Literal["auto", "dense", "gather", "packed", "balanced", "sketch-exact", "sketch"]
"""How rows travel. All but the last give the sum of the ranks' rows, "gather" and "balanced" added up in the order of
ranks:

* ``"auto"``: the cheapest of the others, by their formulas and what the bitmaps say;
* ``"gather"``: everyone sends its rows to everyone;
* ``"balanced"``: each row has an owner, which adds up what the others send it and sends the sum to all;
* ``"packed"``: a dense all-reduce of the rows that any rank has;
* ``"dense"``: a dense all-reduce of the whole tensor;
* ``"sketch-exact"``: a dense all-reduce of a sketch, from which every rank recovers the sums; "balanced"
  where that cannot be exact. For fabrics that can only add; ``"auto"`` never takes it;
* ``"sketch"``: lossy, in as many bytes as its codec says, see `merak.sparse.SketchCodec`; ``"auto"`` never takes it.
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
    costs: dict[str, float]
    """What the formulas were given, as measured before the first sparse operation of the group: latency and seconds a
    byte between hosts and inside one, the work of a message, and of adding up a byte."""

    def __str__(self) -> str:
        ranks = ", ".join(map(str, self.rank_rows))
        lines = [f"{self.union_rows} rows in the union; by rank: {ranks}", self._links()]
        lines.append(f"{'method':12} {'ms':>10} {'MB':>10}")
        for method, (seconds, nbytes) in self.prices.items():
            chosen = " <-" if method == self.method else ""
            lines.append(f"{method:12} {seconds * 1e3:10.3f} {nbytes / 1e6:10.3f}{chosen}")
        return "\n".join(lines)

    def _links(self) -> str:
        us, mb = 1e6, 1e-6
        costs = self.costs
        return (
            f"between hosts {costs['latency_s'] * us:.0f} us and {mb / costs['seconds_per_byte']:.0f} MB/s; inside one "
            f"{costs['latency_inside_s'] * us:.0f} us and {mb / costs['seconds_per_byte_inside']:.0f} MB/s; "
            f"a message {costs['per_message_s'] * us:.1f} us, "
            f"adding up {mb / costs['reduce_seconds_per_byte']:.0f} MB/s"
        )


def calibrate(group: ProcessGroup | None = None) -> dict[str, float]:
    """Measures what the group's operations cost, unless that was done; returns it, as `Plan.costs` has it.

    Called by all ranks. The first operation with method "auto" does it by itself, and waits for it: programs that begin
    with asynchronous operations in several groups, or beside sends and receives, in another order on each rank, call
    this before.
    """
    return explain(torch.zeros(1), group).costs


def explain(
    x: torch.Tensor,
    group: ProcessGroup | None = None,
    method: Method = "auto",
    timeout: datetime.timedelta | None = None,
) -> Plan:
    """What `all_reduce` would do with the ranks' tensors. Called by all ranks: they exchange bitmaps, but no rows.

    Arguments and errors are those of `all_reduce`; `method` is an exact one.
    """
    backend = merak.backend.of_group(group)
    if method == "sketch":
        backend.refuse_sparse_all_reduce("explain() prices the exact methods; a sketch sends what its codec says.")
    ((chosen, union_rows, rank_rows, prices, costs),) = backend.sparse_plans([x], method, timeout or NO_TIMEOUT)
    by_method = {name: (seconds, size) for name, seconds, size in prices}
    return Plan(chosen, union_rows, tuple(rank_rows), by_method, costs)


class Statistics(TypedDict):
    """What the sparse all-reduces of this process have done so far, in all groups."""

    tables: dict[str, int]
    """By method: tensors that were reduced by it."""
    bytes_sent: dict[str, int]
    """By method: bytes of rows that this rank has sent."""
    announced_bytes: int
    """Sent to tell the others which rows this rank has."""
    table_rows: int
    """Of all tensors together: their rows, those that any rank had, and those that this one had."""
    union_rows: int
    own_rows: int
    seconds: float
    """From the start to the end of each operation of CPU tensors."""
    waited_seconds: float
    """Of it, that was spent in wait(): exposed, while the rest went on beside something else. DDP waits for the futures
    of its hooks, which is not counted here."""


def statistics() -> Statistics:
    """What was sent so far, by method, and how sparse it was: `union_rows / table_rows` is the density of the sums."""
    return cast(Statistics, _C.sparse_statistics())


@overload
def all_reduce(
    x: torch.Tensor,
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = ...,
    group: ProcessGroup | None = ...,
    method: Method = ...,
    codec: SketchCodec | None = ...,
    async_op: Literal[False] = ...,
    timeout: datetime.timedelta | None = ...,
) -> torch.Tensor: ...
@overload
def all_reduce(
    x: torch.Tensor,
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = ...,
    group: ProcessGroup | None = ...,
    method: Method = ...,
    codec: SketchCodec | None = ...,
    *,
    async_op: Literal[True],
    timeout: datetime.timedelta | None = ...,
) -> dist.Work: ...
def all_reduce(
    x: torch.Tensor,
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    group: ProcessGroup | None = None,
    method: Method = "auto",
    codec: SketchCodec | None = None,
    async_op: bool = False,
    timeout: datetime.timedelta | None = None,
) -> torch.Tensor | dist.Work:
    """The sum, or average, of the ranks' tensors; out of place.

    Args:
        x: on CPU or, in a build with CUDA, on a GPU; of the same shape and dtype (float32, float64, bfloat16, float16,
            int32, int64) on all ranks. Sparse COO, coalesced or not; or dense: then rows whose bits are all zero are
            not sent (of a 1-D tensor, blocks of 64 elements).
        op: SUM or AVG (of floating-point types).
        group: a group of backend "merak"; the default group if None.
        method: see `Method`; the same on all ranks.
        codec: for method "sketch", which takes float32 and float64: one for each tensor that is reduced repeatedly.
        async_op: return a Work at once; after its wait(), `get_future().wait()[0]` is the tensor. Until then x must
            not be changed. With method "auto" a group's first operation waits for measuring, see `calibrate`.
        timeout: the group's, if None.

    Returns:
        A tensor of x's layout, a COO one coalesced; the same bits on every rank.

    Raises:
        ValueError: this rank's arguments are wrong.
        torch.distributed.DistBackendError: the ranks' arguments do not fit together, or one rank's indices are out of
            range (on all ranks), or the timeout has passed.
        torch.distributed.DistNetworkError: a rank has died or left.
    """
    if codec is None:
        work = _start([x], op, group, method, timeout)
    else:
        backend = merak.backend.of_group(group)
        if method != "sketch":
            backend.refuse_sparse_all_reduce(f"a codec is for method='sketch', and not for method={method!r}.")
        work = _told_to_all(backend, lambda: codec.start(backend, x, _operator(op), timeout or NO_TIMEOUT))
    if async_op:
        return work
    work.wait()
    result: torch.Tensor = work.get_future().wait()[0]
    return result


def all_reduce_coalesced(
    tensors: Sequence[torch.Tensor],
    op: dist.ReduceOp | dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    group: ProcessGroup | None = None,
    method: Method = "auto",
    async_op: bool = False,
    timeout: datetime.timedelta | None = None,
) -> list[torch.Tensor] | dist.Work:
    """`all_reduce` of several tensors of one dtype in one exchange, such as the tables of a model.

    Each tensor has a method of its own if `method` is "auto". After the wait() of an asynchronous one,
    `get_future().wait()` is the list of tensors.
    """
    work = _start(list(tensors), op, group, method, timeout)
    if async_op:
        return work
    work.wait()
    results: list[torch.Tensor] = work.get_future().wait()
    return results


def _start(
    tensors: list[torch.Tensor],
    op: dist.ReduceOp | dist.ReduceOp.RedOpType,
    group: ProcessGroup | None,
    method: str,
    timeout: datetime.timedelta | None,
) -> dist.Work:
    backend = merak.backend.of_group(group)
    return _told_to_all(
        backend, lambda: backend.sparse_all_reduce(tensors, _operator(op), method, timeout or NO_TIMEOUT)
    )


def _told_to_all(backend: Backend, start: Callable[[], dist.Work]) -> dist.Work:
    """What `start` gives. Arguments of a wrong type are refused here, before C++ sees them: the others have to be told,
    or they would wait."""
    try:
        return start()
    except (TypeError, AttributeError) as error:
        backend.refuse_sparse_all_reduce(f"an argument is of a wrong type. {error}")
        raise


def _operator(op: dist.ReduceOp | dist.ReduceOp.RedOpType) -> dist.ReduceOp:
    return op if isinstance(op, dist.ReduceOp) else dist.ReduceOp(op)
