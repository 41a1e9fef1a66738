"""DTensor in one process: torch's simulated ranks. All that these tests use of torch's private interfaces is here."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._local_tensor import LocalTensor, LocalTensorMode
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import ExplicitRedistributionContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.sharding.calls import Drawn

Divided = list[list[int | None]]
"""By operand, by axis of the mesh: the dimension that is divided over it, or None."""

Kinds = tuple[int | str, ...]
"""Of each result over one axis: the dimension that is divided, "whole", "sum" or "other"."""


@contextlib.contextmanager
def process_group(ranks: int) -> Iterator[None]:
    """A default group of so many ranks, of which this process is the first. Nothing travels."""
    dist.init_process_group("fake", rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def placed(divided: Sequence[int | None]) -> list[Placement]:
    return [Replicate() if dim is None else Shard(dim) for dim in divided]


class Simulated:
    """Ranks of a mesh, simulated by torch."""

    def __init__(self, mesh_shape: tuple[int, ...]) -> None:
        self._mode = LocalTensorMode(math.prod(mesh_shape))
        with self._mode:
            self._mesh = dist.init_device_mesh("cpu", mesh_shape)

    def results(self, drawn: Drawn, divided: Divided) -> list[torch.Tensor]:
        """Whole results of a call whose operands are divided so."""
        with self._mode, _calling():
            operands = [
                distribute_tensor(one, self._mesh, placed(of), src_data_rank=None)
                for one, of in zip(drawn.operands, divided, strict=True)
            ]
            return [_whole(one) for one in drawn.run(operands)]


def _whole(result: Any) -> torch.Tensor:
    full = result.full_tensor() if isinstance(result, DTensor) else result
    if isinstance(full, LocalTensor):
        full = full.reconcile()
    assert isinstance(full, torch.Tensor)
    return full


class Trials:
    """Calls over an axis of two ranks, where DTensor may not redistribute anything."""

    def __init__(self) -> None:
        self.mesh = dist.init_device_mesh("cpu", (2,))

    def results(self, drawn: Drawn, divided: Sequence[int | None]) -> Kinds | None:
        """What the results are, None if DTensor does not take the operands so."""
        operands = [
            DTensor.from_local(_first_part(one, dim), self.mesh, placed([dim]), shape=one.shape, stride=one.stride())
            for one, dim in zip(drawn.operands, divided, strict=True)
        ]
        try:
            with ExplicitRedistributionContext(strict=True), _calling():
                made = drawn.run(operands)
        except Exception:  # of a redistribution it is a RuntimeError; a rule that does not fit raises anything
            return None
        return tuple(_kind(one.placements[0]) for one in made if isinstance(one, DTensor))


def _kind(placement: Placement) -> int | str:
    if type(placement) is Shard:
        return placement.dim
    if isinstance(placement, Replicate):
        return "whole"
    is_sum = isinstance(placement, Partial) and placement.reduce_op == "sum"
    return "sum" if is_sum and type(placement).__name__ in ("Partial", "MaskPartial", "_MaskPartial") else "other"


def _first_part(tensor: torch.Tensor, dim: int | None) -> torch.Tensor:
    return tensor if dim is None else tensor.chunk(2, dim)[0].contiguous()


@contextlib.contextmanager
def _calling() -> Iterator[None]:
    """Without gradients and warnings; attention in products: of the CPU's kernel DTensor has no rule, and tries for
    minutes to find one in what that decomposes to."""
    with torch.no_grad(), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        yield
