"""DTensor on the backend: every change of layout gives the tensor that it started from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.backend import models
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]
Layout = Sequence[Placement]


def lay_out(whole: torch.Tensor, mesh: DeviceMesh, layout: Layout) -> DTensor:
    """`whole` in a layout, made without the backend's reductions: where it is partial, n ranks hold 2-n, 1, ... 1
    times it, which sums to once."""
    plain = [Replicate() if placement.is_partial() else placement for placement in layout]
    local = distribute_tensor(whole, mesh, plain).to_local()
    for dimension, placement in enumerate(layout):
        if placement.is_partial() and mesh.get_local_rank(dimension) == 0:
            local = local * (2 - mesh.size(dimension))
    return DTensor.from_local(local, mesh, layout, shape=whole.shape, stride=whole.stride(), run_check=False)


def redistribute_every_pair(context: Context, mesh_shape: tuple[int, ...]) -> int:
    """Returns the number of pairs of layouts tried."""
    mesh = init_device_mesh("cpu", mesh_shape)
    whole = torch.arange(7.0 * 10).reshape(7, 10)
    targets = list(itertools.product((Replicate(), Shard(0), Shard(1)), repeat=len(mesh_shape)))
    sources = list(itertools.product((Replicate(), Shard(0), Shard(1), Partial()), repeat=len(mesh_shape)))
    for source, target in itertools.product(sources, targets):
        got = lay_out(whole, mesh, source).redistribute(mesh, target)
        wanted = distribute_tensor(whole, mesh, target)
        assert got.placements == wanted.placements
        assert torch.equal(got.to_local(), wanted.to_local()), f"{source} -> {target}"
        assert torch.equal(got.full_tensor(), whole), f"{source} -> {target}, gathered"
    return len(sources) * len(targets)


@pytest.mark.parametrize("mesh_shape", [(2,), (3,), (4,), (2, 2)], ids=str)
def test_every_pair_of_layouts(run: Runner, mesh_shape: tuple[int, ...]) -> None:
    counts = run(redistribute_every_pair, mesh_shape, world_size=torch.Size(mesh_shape).numel())
    assert counts[0] == 12 ** len(mesh_shape)


def train_tensor_parallel(context: Context) -> tuple[list[float], list[Any]]:
    mesh = init_device_mesh("cpu", (context.world_size,))
    model = models.Stack(hidden=24)
    plan = {f"blocks.{i}.{j}": ColwiseParallel() if j == 0 else RowwiseParallel() for i in range(3) for j in (0, 2)}
    parallelize_module(model, mesh, plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, _ in models.batches(0, 3, features=12):
        loss = nn.functional.mse_loss(model(x), torch.zeros_like(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, [p.full_tensor().detach() for p in model.parameters() if isinstance(p, DTensor)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_tensor_parallel_training_equals_gloo(same_as_gloo: Callable[..., list[Any]], world_size: int) -> None:
    same_as_gloo(train_tensor_parallel, world_size=world_size, exact=world_size == 2)
