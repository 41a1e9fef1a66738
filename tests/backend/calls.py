"""Makes the call that a case of the oracle describes; runs on a rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tests.backend import oracle, torch_internals
from tests.backend.oracle import Case


@dataclasses.dataclass
class Call:
    """A collective in flight: its Work, its outputs, and its read-only inputs with copies of them."""

    work: dist.Work | None
    outputs: list[torch.Tensor] | None  # None on ranks that get no result
    inputs: list[torch.Tensor]
    copies: list[torch.Tensor]

    def finish(self) -> list[torch.Tensor] | None:
        """Waits; returns the outputs after checking that no input has changed."""
        if self.work is not None:
            self.work.wait()
        for before, after in zip(self.copies, self.inputs, strict=True):
            assert torch.equal(before, after), "the collective wrote to its input"
        return self.outputs


@dataclasses.dataclass(frozen=True)
class Maker:
    """Builds the tensors of a case for this rank."""

    case: Case
    rank: int
    size: int
    group: dist.ProcessGroup | None

    def part(self, part: int = 0) -> torch.Tensor:
        """An input that may be written to."""
        return oracle.tensor(self.case, oracle.values(self.case, self.rank, part, self.size))

    def read_only(self, part: int = 0) -> torch.Tensor:
        """An input that is only read, in the layout of the case."""
        array = oracle.values(self.case, self.rank, part, self.size)
        return oracle.tensor(self.case, array, strided=self.case.strided)

    def parts(self) -> list[torch.Tensor]:
        """A read-only part for every rank."""
        return [self.read_only(part) for part in range(self.size)]

    def joined_parts(self) -> torch.Tensor:
        """The parts for every rank in one read-only tensor, along the first dimension; torch wants it contiguous."""
        arrays = [np.atleast_1d(oracle.values(self.case, self.rank, part, self.size)) for part in range(self.size)]
        return oracle.tensor(self.case, np.concatenate(arrays))

    def empty(self, rows: int | None = None) -> torch.Tensor:
        """An output of the case's shape, with a leading dimension of `rows` if given, filled with a wrong value."""
        shape = self.case.shape if rows is None else (rows, *self.case.shape)
        return torch.full(shape, True, dtype=getattr(torch, self.case.dtype))

    @property
    def op(self) -> Any:
        """The case's reduction, as torch has it."""
        if self.case.reduction == "PREMUL_SUM":
            return torch_internals.premul_sum(oracle.PREMUL_FACTOR)
        return getattr(dist.ReduceOp, self.case.reduction)

    def common(self) -> dict[str, Any]:
        """Arguments that all operations share."""
        return {"group": self.group, "async_op": True}


Made = tuple[dist.Work | None, list[torch.Tensor] | None, list[torch.Tensor]]


def _all_reduce(m: Maker) -> Made:
    x = m.part()
    return dist.all_reduce(x, m.op, **m.common()), [x], []


def _all_reduce_coalesced(m: Maker) -> Made:
    xs = [m.part(0), m.part(1)]
    return torch_internals.all_reduce_coalesced(xs, m.op, m.group), xs, []


def _reduce(m: Maker) -> Made:
    x = m.part()
    work = dist.reduce(x, group_dst=m.case.root, op=m.op, **m.common())
    return work, [x] if m.rank == m.case.root else None, []


def _reduce_scatter(m: Maker) -> Made:
    y, xs = m.empty(), m.parts()
    return dist.reduce_scatter(y, xs, m.op, **m.common()), [y], xs


def _reduce_scatter_tensor(m: Maker) -> Made:
    y, x = m.empty(), m.joined_parts()
    return dist.reduce_scatter_tensor(y, x, m.op, **m.common()), [y], [x]


def _broadcast(m: Maker) -> Made:
    x = m.part()
    return dist.broadcast(x, group_src=m.case.root, **m.common()), [x], []


def _all_gather(m: Maker) -> Made:
    x, ys = m.read_only(), [m.empty() for _ in range(m.size)]
    return dist.all_gather(ys, x, **m.common()), ys, [x]


def _all_gather_into_tensor(m: Maker) -> Made:
    x = m.read_only()
    y = m.empty(m.size) if x.dim() == 0 else m.empty(m.size).flatten(0, 1)
    return dist.all_gather_into_tensor(y, x, **m.common()), [y], [x]


def _all_to_all(m: Maker) -> Made:
    xs, ys = m.parts(), [m.empty() for _ in range(m.size)]
    return dist.all_to_all(ys, xs, **m.common()), ys, xs


def _all_to_all_single(m: Maker) -> Made:
    x = m.joined_parts()
    y = torch.ones(x.shape, dtype=x.dtype)
    return dist.all_to_all_single(y, x, **m.common()), [y], [x]


def _all_to_all_uneven(m: Maker) -> Made:
    x = m.joined_parts()
    sent = [m.case.rows(m.rank, peer) for peer in range(m.size)]
    received = [m.case.rows(peer, m.rank) for peer in range(m.size)]
    y = m.empty(sum(received))
    return dist.all_to_all_single(y, x, received, sent, **m.common()), [y], [x]


def _gather(m: Maker) -> Made:
    x = m.read_only()
    ys = [m.empty() for _ in range(m.size)] if m.rank == m.case.root else None
    return dist.gather(x, ys, group_dst=m.case.root, **m.common()), ys, [x]


def _scatter(m: Maker) -> Made:
    y = m.empty()
    xs = m.parts() if m.rank == m.case.root else []
    return dist.scatter(y, xs or None, group_src=m.case.root, **m.common()), [y], xs


def _barrier(m: Maker) -> Made:
    return dist.barrier(**m.common()), [], []


_CALLS: dict[str, Callable[[Maker], Made]] = {
    "all_reduce": _all_reduce,
    "all_reduce_coalesced": _all_reduce_coalesced,
    "reduce": _reduce,
    "reduce_scatter": _reduce_scatter,
    "reduce_scatter_tensor": _reduce_scatter_tensor,
    "broadcast": _broadcast,
    "all_gather": _all_gather,
    "all_gather_into_tensor": _all_gather_into_tensor,
    "all_to_all": _all_to_all,
    "all_to_all_single": _all_to_all_single,
    "all_to_all_uneven": _all_to_all_uneven,
    "gather": _gather,
    "scatter": _scatter,
    "barrier": _barrier,
}


def start(case: Case, rank: int, size: int, group: dist.ProcessGroup | None = None) -> Call:
    """Starts the case's collective on this rank; `group` must hold all ranks in their order."""
    work, outputs, inputs = _CALLS[case.operation](Maker(case, rank, size, group))
    return Call(work, outputs, inputs, [x.clone() for x in inputs])
