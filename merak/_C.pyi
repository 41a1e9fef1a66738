# ruff: noqa: N999 - the name of the extension module
"""merak's C++ side. Private: import merak.backend instead."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as C10dBackend
from torch._C._distributed_c10d import Store

class Backend(C10dBackend):
    class Options(C10dBackend.Options):
        def __init__(self, timeout: timedelta = ...) -> None: ...

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        options: Options,
        *,
        registered_name: str,
        rendezvous_host: str,
        make_cuda_backend: Callable[[Store, int, int, timedelta, str], C10dBackend],
    ) -> None: ...
    def average(self, tensor: torch.Tensor, priority: int, timeout: timedelta) -> dist.Work: ...
    def sparse_all_reduce(
        self, tensors: list[torch.Tensor], op: dist.ReduceOp, method: str, timeout: timedelta
    ) -> dist.Work: ...
    def refuse_sparse_all_reduce(self, reason: str) -> None: ...
    def sketch_all_reduce(
        self,
        tensor: torch.Tensor,
        op: dist.ReduceOp,
        budget_bytes: int,
        seed: int,
        feedback: bool,
        timeout: timedelta,
    ) -> dist.Work: ...
    def sparse_plans(
        self, tensors: list[torch.Tensor], method: str, timeout: timedelta
    ) -> list[tuple[str, int, list[int], list[tuple[str, float, int]], dict[str, float]]]: ...
    def new_table(self) -> int: ...
    def embedding_lookup(
        self,
        shard: torch.Tensor,
        ids: torch.Tensor,
        split: TableSplit,
        padding: int,
        prepare_gradient: bool,
        priority: int,
        timeout: timedelta,
    ) -> EmbeddingLookup: ...
    def embedding_gradient(
        self, batch: EmbeddingBatch, gradient: torch.Tensor, priority: int, timeout: timedelta
    ) -> dist.Work: ...
    def embedding_announce(
        self, shard: torch.Tensor, ids: torch.Tensor, split: TableSplit, padding: int, priority: int, timeout: timedelta
    ) -> EmbeddingLookup: ...
    def embedding_rows(
        self, batch: EmbeddingBatch, shard: torch.Tensor, rows: torch.Tensor, priority: int, timeout: timedelta
    ) -> dist.Work: ...
    def embedding_update(
        self,
        batch: EmbeddingBatch,
        gradient: torch.Tensor,
        update: TableUpdate,
        next: EmbeddingBatch | None,
        rows: torch.Tensor,
        priority: int,
        timeout: timedelta,
    ) -> dist.Work: ...
    def refuse_embedding(self, reason: str) -> None: ...

class TableSplit:
    def __init__(self, by: str, rows: int, columns: int, ranks: int, table: int = -1) -> None: ...
    @property
    def by_rows(self) -> bool: ...
    def rows(self, rank: int) -> slice: ...
    def columns(self, rank: int) -> slice: ...

class EmbeddingBatch:
    @property
    def rows(self) -> int: ...
    @property
    def own_rows(self) -> int: ...

class EmbeddingBatchPair:
    def __init__(self, first: EmbeddingBatch, second: EmbeddingBatch) -> None: ...
    @property
    def prior(self) -> EmbeddingBatch: ...
    @property
    def delayed(self) -> EmbeddingBatch: ...
    @property
    def late(self) -> EmbeddingBatch: ...
    @property
    def early(self) -> EmbeddingBatch: ...

class EmbeddingLookup:
    @property
    def work(self) -> dist.Work: ...
    def batch(self) -> EmbeddingBatch: ...

class TableUpdate:
    def __init__(
        self,
        kind: str,
        options: tuple[float, float, float, float, float],
        step: int,
        table: torch.Tensor,
        remembered: list[torch.Tensor],
    ) -> None: ...
    def __call__(
        self, ids: torch.Tensor, gradients: torch.Tensor, mean_squares: torch.Tensor | None = None
    ) -> None: ...

def square_sums(gradients: torch.Tensor) -> torch.Tensor: ...
def close_all_groups(linger: timedelta) -> None: ...
def host_identity() -> str: ...
def statistics() -> dict[str, int]: ...
def sparse_statistics() -> dict[str, Any]: ...
def environment_variables() -> list[tuple[str, str, str, str, str | None, str]]: ...
def network_interfaces() -> list[tuple[str, str]]: ...
def listening_address(rendezvous_host: str) -> str: ...
