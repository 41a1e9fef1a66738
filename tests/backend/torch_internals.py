"""All that these tests use of torch's private or deprecated interfaces, so that a new torch breaks one file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch._C._distributed_c10d import _make_nccl_premul_sum
from torch.distributed.distributed_c10d import _coalescing_manager

__all__ = ["all_reduce_coalesced", "coalesced", "functional", "premul_sum"]


def premul_sum(factor: float) -> Any:
    """The reduction that multiplies every rank's input by `factor` and sums; its name is older than its use."""
    return _make_nccl_premul_sum(factor)


def all_reduce_coalesced(tensors: list[torch.Tensor], op: Any, group: dist.ProcessGroup | None) -> Any:
    """Starts one all-reduce of several tensors; deprecated in torch's Python, but still a call that backends get."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return dist.all_reduce_coalesced(tensors, op, group, async_op=True)


def coalesced(calls: Callable[[], None], group: dist.ProcessGroup | None = None) -> Any:
    """Makes `calls` under a coalescing manager, as FSDP does; returns what is to be waited for."""
    with _coalescing_manager(group, async_ops=True) as manager:
        calls()
    return manager
