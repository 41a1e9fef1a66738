"""What one step of an embedding has to send: rows looked up and gradients back where the table is split over the ranks,
gradients alone where each rank has all of it."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

import merak.embedding
from benchmarks.sparse.bench import Groups
from benchmarks.sparse.ways import WAYS as REPLICATED


class AllToAll:
    """merak.embedding.ShardedEmbedding: the lookup of a batch, and its gradient."""

    def __init__(self, gradient: torch.Tensor, groups: Groups) -> None:
        rows, columns = gradient.shape
        self.ids, self.gradient = gradient._indices()[0].contiguous(), gradient._values()
        mesh = DeviceMesh.from_group(groups["merak"], "cpu")
        self.table = merak.embedding.ShardedEmbedding(rows, columns, mesh=mesh)

    def reset(self) -> None:
        self.table.weight.grad = None

    def call(self) -> None:
        self.table(self.ids).backward(self.gradient)

    def result(self) -> torch.Tensor:
        """The sum over ranks, of all columns."""
        assert self.table.weight.grad is not None
        mine = self.table.weight.grad.to_dense().contiguous()
        size = self.table.mesh.size()
        parts = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(parts, mine, group=self.table.mesh.get_group())
        return torch.cat(parts, dim=1) * size


class AllGather:
    """As Horovod does: every rank gathers the gradients of all tokens, over Gloo."""

    def __init__(self, gradient: torch.Tensor, groups: Groups) -> None:
        self.gradient, self.group = gradient, groups["gloo"]
        size = dist.get_world_size(self.group)
        self.ids = torch.empty(size * gradient._nnz(), dtype=torch.int64)
        self.values = torch.empty(size * gradient._nnz(), gradient.size(1))

    def reset(self) -> None:
        self.sum = None

    def call(self) -> None:
        dist.all_gather_into_tensor(self.ids, self.gradient._indices()[0].contiguous(), group=self.group)
        dist.all_gather_into_tensor(self.values, self.gradient._values(), group=self.group)
        self.sum = torch.sparse_coo_tensor(self.ids[None], self.values, self.gradient.shape, check_invariants=False)

    def result(self) -> torch.Tensor:
        assert self.sum is not None
        return self.sum.to_dense()


def bytes_of_split_table(rank_rows: list[int], columns: int, ids_bytes: float) -> float:
    """By the formula: what leaves the busiest host in a step, one rank a host. `rank_rows`: by rank, the rows that it
    reads; `ids_bytes`: what it takes to tell one other which. Each rank sends its columns of the rows that the others
    read, and the others' columns of the gradients of its own."""
    n = len(rank_rows)
    rows = np.array(rank_rows, np.float64)
    looked_up = (rows.sum() - rows) * columns * 4 / n
    back = rows * columns * 4 * (n - 1) / n
    return float((looked_up + back).max() + (n - 1) * ids_bytes)


WAYS = {
    "alltoall": AllToAll,
    "exact sparse": REPLICATED["auto"],
    "all-gather": AllGather,
    "gloo sparse": REPLICATED["gloo sparse"],
    "gloo dense": REPLICATED["gloo dense"],
}
