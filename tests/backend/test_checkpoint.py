"""torch.distributed.checkpoint over the backend: saved by one number of ranks, loaded by another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.backend import models
from tests.backend.comparison import assert_same
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]
WHOLE = StateDictOptions(full_state_dict=True)


def build(context: Context, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    mesh = init_device_mesh("cpu", (context.world_size,))
    model = models.Stack()
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.ones(2, 12)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def save(context: Context, folder: Path, asynchronous: bool) -> Any:
    model, optimizer = build(context, seed=1)
    weights, moments = get_state_dict(model, optimizer)
    document = {"model": weights, "optimizer": moments, "step": 7}
    if asynchronous:
        dcp.async_save(document, checkpoint_id=folder).result()
    else:
        dcp.save(document, checkpoint_id=folder)
    return get_state_dict(model, optimizer, options=WHOLE)


def load(context: Context, folder: Path) -> tuple[Any, int]:
    model, optimizer = build(context, seed=2)
    weights, moments = get_state_dict(model, optimizer)
    document = {"model": weights, "optimizer": moments, "step": 0}
    dcp.load(document, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=document["model"], optim_state_dict=document["optimizer"])
    return get_state_dict(model, optimizer, options=WHOLE), document["step"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["save", "async_save"])
@pytest.mark.parametrize(("savers", "loaders"), [(2, 2), (2, 3), (4, 1), (1, 4)])
def test_what_some_ranks_saved_others_load(
    run: Runner, tmp_path: Path, savers: int, loaders: int, asynchronous: bool
) -> None:
    saved = run(save, tmp_path, asynchronous, world_size=savers)[0]
    for state, step in run(load, tmp_path, world_size=loaders)[:1]:
        assert step == 7
        assert_same(state, saved)
