"""What torch gets silently wrong when a DTensor changes its mesh, and what merak makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import merak
from merak.resharding import guard_dtensor
from tests.backend.harness import Context
from tests.resharding import reference

Runner = Callable[..., list[Any]]
WHOLE = torch.arange(24.0).reshape(8, 3)


def mesh(*ranks: int) -> DeviceMesh:
    return DeviceMesh("cpu", torch.tensor(ranks), _init_backend=False)


def source(rank: int) -> DTensor:
    return reference.source([WHOLE], reference.Layout(torch.tensor([0, 1]), (Shard(0),)), rank)


def check(y: DTensor, ranks: list[int], placement: Any, rank: int, dtype: torch.dtype = torch.float32) -> None:
    layout = reference.Layout(torch.tensor(ranks), (placement,))
    assert y.device_mesh == layout.device_mesh()
    assert torch.equal(y.to_local(), reference.local(WHOLE.to(dtype), layout, rank))


def equal_placements(context: Context) -> bool:
    """torch returns the tensor on its old mesh."""
    target = mesh(2, 3)
    silent = source(context.rank).redistribute(target, [Shard(0)]).device_mesh == mesh(0, 1)
    with guard_dtensor():
        check(source(context.rank).redistribute(target, [Shard(0)]), [2, 3], Shard(0), context.rank)
        wide = mesh(0, 1, 2, 3)
        check(source(context.rank).redistribute(wide, [Shard(0)]), [0, 1, 2, 3], Shard(0), context.rank)
    return silent


def test_equal_placements_on_another_mesh(run: Runner) -> None:
    silent = run(equal_placements, world_size=4)
    if not all(silent):
        pytest.xfail("this torch has mended it")  # the right result was checked


def with_a_dtype(context: Context) -> bool:
    """torch puts the new mesh's name on data that has not moved."""
    target = mesh(2, 3)
    wrong = False
    if "forward_dtype" in DTensor.redistribute.__doc__ or "":
        y = source(context.rank).redistribute(target, [Shard(0)], forward_dtype=torch.bfloat16)
        wrong = y.device_mesh == target and (context.rank < 2) == (y.to_local().numel() > 0)
    with guard_dtensor():
        y = source(context.rank).redistribute(target, [Shard(0)], forward_dtype=torch.bfloat16)
        check(y, [2, 3], Shard(0), context.rank, torch.bfloat16)
        y = source(context.rank).redistribute(target, [Replicate()], forward_dtype=torch.bfloat16)
        check(y, [2, 3], Replicate(), context.rank, torch.bfloat16)
    return wrong


def test_another_mesh_with_a_dtype(run: Runner) -> None:
    wrong = run(with_a_dtype, world_size=4)
    if not all(wrong):
        pytest.xfail("this torch has mended it, or has no forward_dtype")


def lone_strided_shard(context: Context, folder: str) -> bool:
    """Distributed checkpoints load it wrongly; through merak it comes right, both ways."""
    import torch.distributed.checkpoint as dcp

    layout = reference.Layout(torch.tensor([0, 1]), (_StridedShard(0, split_factor=2),))
    x = reference.source([WHOLE], layout, context.rank)
    y = merak.redistribute(x, mesh(1, 0), [Shard(0)])
    check(y, [1, 0], Shard(0), context.rank)
    again = merak.redistribute(y, layout.device_mesh(), layout.placements)
    assert torch.equal(again.to_local(), reference.local(WHOLE, layout, context.rank))
    dcp.save({"w": WHOLE.clone()}, checkpoint_id=folder)
    loaded = reference.source([torch.zeros_like(WHOLE)], layout, context.rank)
    dcp.load({"w": loaded}, checkpoint_id=folder)
    return not torch.equal(loaded.to_local(), reference.local(WHOLE, layout, context.rank))


def test_a_strided_shard_alone(run: Runner, tmp_path: Path) -> None:
    wrong = run(lone_strided_shard, str(tmp_path / "checkpoint"))
    if not any(wrong):
        pytest.xfail("this torch has mended it")


def raising(context: Context) -> None:
    guard = guard_dtensor("raise").install()
    try:
        with pytest.raises(ValueError, match="ranks 0-1, the target is one of ranks 2-3"):
            source(context.rank).redistribute(mesh(2, 3), [Shard(0)])
        with pytest.raises(RuntimeError, match="in place already"):
            guard.install()
    finally:
        guard.remove()
        guard.remove()


def test_it_may_raise_instead(run: Runner) -> None:
    run(raising, world_size=4)


def on_its_mesh(context: Context) -> None:
    here = DeviceMesh("cpu", torch.tensor([0, 1]))
    x = DTensor.from_local(torch.ones(2, 3), here, [Shard(0)])
    with guard_dtensor("raise"):
        y = x.redistribute(here, [Replicate()])
        assert torch.equal(x.redistribute(placements=[Replicate()]).to_local(), y.to_local())
    assert y.to_local().shape == (4, 3)
    dist.barrier()


def test_what_stays_on_its_mesh_is_dtensors_own(run: Runner) -> None:
    run(on_its_mesh)


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="choose 'move' or 'raise'"):
        guard_dtensor("ignore")  # type: ignore[arg-type]
