"""Hooks for DistributedDataParallel.

ddp.register_comm_hook(merak.sparse.HookState(), merak.sparse.exact_hook)
"""

# Without `from __future__ import annotations`: DDP looks at the annotations of hooks, and wants types.

import dataclasses

import torch
import torch.distributed as dist

import merak.backend
from merak._torch_compat import GradBucket, ProcessGroup
from merak.sparse.operations import NO_TIMEOUT, Method


@dataclasses.dataclass
class HookState:
    """What a hook needs to know.

    Attributes:
        group: the one DDP uses; the default group if None. Of backend "merak".
        method: how sparse gradients travel, see `Method`.
    """

    group: ProcessGroup | None = None
    method: Method = "auto"


def exact_hook(state: HookState, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Averages a bucket exactly: a sparse gradient (`nn.Embedding(sparse=True)`) by `all_reduce` of this room, summed
    in fp32 or wider and divided once; a dense one as DDP itself does."""
    buffer = bucket.buffer()
    if buffer.layout is torch.sparse_coo:
        backend = merak.backend.of_group(state.group)
        work = backend.sparse_all_reduce([buffer], dist.ReduceOp(dist.ReduceOp.AVG), state.method, NO_TIMEOUT)
    else:
        work = dist.all_reduce(buffer, op=dist.ReduceOp.AVG, group=state.group, async_op=True)
    return work.get_future().then(_first)


def _first(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
    return future.value()[0]
