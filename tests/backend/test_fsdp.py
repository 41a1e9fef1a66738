"""FSDP2 (`fully_shard`) on the backend: the numbers of Gloo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from tests.backend import models
from tests.backend.harness import Context

SameAsGloo = Callable[..., list[Any]]


def train(
    context: Context, mesh_shape: tuple[int, ...], reshard: bool = True, half: bool = False
) -> tuple[list[float], list[float], dict[str, Any]]:
    """Losses, gradient norms before clipping, and the whole parameters after three steps."""
    names = ("replicas", "shards")[-len(mesh_shape) :]
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=names)
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    )
    model = models.Stack()
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses, norms = [], []
    for x, _ in models.batches(context.rank, 3, features=12):
        loss = model(x).square().mean()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1).full_tensor().item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, norms, get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


@pytest.mark.parametrize("reshard", [True, False], ids=["reshard", "keep"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_sharded_training_equals_gloo(same_as_gloo: SameAsGloo, world_size: int, reshard: bool) -> None:
    same_as_gloo(train, (world_size,), reshard, world_size=world_size, exact=world_size == 2)


def test_hybrid_sharding_equals_gloo(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(train, (2, 2), world_size=4)


def test_mixed_precision_equals_gloo(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(train, (2,), half=True, exact=True)
