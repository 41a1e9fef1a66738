"""merak.reshard_state_dict: sides that do not know each other's layouts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Partial, Placement, Replicate, Shard

import merak
from tests.backend.harness import Context
from tests.resharding import reference

Runner = Callable[..., list[Any]]

SHAPES: dict[str, tuple[int, ...]] = {"embed": (50, 8), "layers.0.w": (8, 12), "layers.0.norm": (8,), "scale": ()}


def whole(name: str, step: int = 0) -> torch.Tensor:
    return reference.RandomCases.values(SHAPES[name], torch.float32, len(name) + step)


def side(rank: int, ranks: Any, placements: tuple[Placement, ...], dtype: torch.dtype | None, step: int = 0) -> Any:
    layout = reference.Layout(torch.tensor(ranks), placements)
    if layout.place(rank) is None:
        return None
    state: dict[str, Any] = {"layers": [{}], "epoch": 3}
    for name in SHAPES:
        kinds = tuple(Replicate() if SHAPES[name] == () else placement for placement in placements)
        values = torch.zeros(SHAPES[name], dtype=dtype) if dtype else whole(name, step)
        x = reference.source([values], reference.Layout(layout.mesh, kinds), rank)
        if name.startswith("layers.0."):
            state["layers"][0][name.removeprefix("layers.0.")] = x
        else:
            state[name] = x
    return state


def flat(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "embed": state["embed"],
        "scale": state["scale"],
        **{f"layers.0.{k}": v for k, v in state["layers"][0].items()},
    }


def trainer_to_generator(context: Context) -> None:
    rank = context.rank
    for step in range(3):
        src = side(rank, [[0, 1], [2, 3]], (Shard(0), Replicate()), None, step)
        dst = side(rank, [5, 4], (Shard(0),), torch.bfloat16)
        if step == 1:
            work = merak.reshard_state_dict(src, dst, async_op=True)
            work.wait()
        else:
            merak.reshard_state_dict(src, dst)
        if dst is None:
            continue
        assert dst["epoch"] == 3
        for name, tensor in flat(dst).items():
            kinds = (Replicate(),) if SHAPES[name] == () else (Shard(0),)
            layout = reference.Layout(torch.tensor([5, 4]), kinds)
            assert torch.equal(tensor.to_local(), reference.local(whole(name, step).bfloat16(), layout, rank)), name


def test_two_programs_that_know_only_their_own_side(run: Runner) -> None:
    run(trainer_to_generator, world_size=7)


def plain_tensors(context: Context) -> None:
    rank = context.rank
    values = torch.arange(10.0)
    src = {"w": values.clone(), "only here": torch.ones(3)} if rank in (0, 2) else None
    dst = {"w": torch.zeros(10)} if rank in (1, 2) else None
    merak.reshard_state_dict(src, dst)
    if dst is not None:
        assert torch.equal(dst["w"], values)
    target = side(rank, [1], (Replicate(),), torch.float32)
    merak.reshard_state_dict({name: whole(name) for name in SHAPES} if rank == 0 else None, target and flat(target))
    if rank == 1:
        for name, tensor in flat(target).items():
            assert torch.equal(tensor.to_local(), whole(name))


def test_tensors_that_are_no_dtensors_are_whole_where_they_are(run: Runner) -> None:
    run(plain_tensors, world_size=3)


def several_meshes(context: Context) -> None:
    """As FSDP2 leaves what tensor parallelism has not cut: each column of its mesh has all of it."""
    values = torch.arange(10.0)
    rank = context.rank
    columns = [[0, 2], [1, 3]]
    src = None
    if rank < 4:
        layout = reference.Layout(torch.tensor(columns[rank % 2]), (Shard(0),))
        src = {"w": reference.source([values], layout, rank)}
    target = reference.Layout(torch.tensor([4 + rank % 2]), (Replicate(),))
    dst = {"w": reference.source([torch.zeros(10)], target, rank)} if rank >= 4 else None
    merak.reshard_state_dict(src, dst)
    if dst is not None:
        assert torch.equal(dst["w"].to_local(), values)
    wrong = {"w": reference.source([values], reference.Layout(torch.tensor([min(rank, 4), 5]), (Shard(0),)), rank)}
    with pytest.raises(ValueError, match="is on several meshes, which have rank 5 in common"):
        merak.reshard_state_dict(wrong, dst)


def test_a_tensor_on_several_meshes(run: Runner) -> None:
    run(several_meshes, world_size=6)


def tied_targets(context: Context) -> None:
    """What comes is passed on to other ranks: not from memory that something else is written into as well."""
    src = {"a": torch.full((1000, 300), 1.0), "b": torch.full((1000, 300), 2.0)} if context.rank == 0 else None
    w = torch.zeros(1000, 300)
    dst = {"a": w, "b": w if context.rank == 1 else torch.zeros(1000, 300)} if context.rank > 0 else None
    for _ in range(10):
        merak.reshard_state_dict(src, dst)
        if dst is not None and context.rank > 1:
            assert torch.equal(dst["a"], torch.full((1000, 300), 1.0))
            assert torch.equal(dst["b"], torch.full((1000, 300), 2.0))


def test_targets_that_share_memory(run: Runner) -> None:
    run(tied_targets, world_size=4)


def partial_sources(context: Context) -> None:
    rank = context.rank
    layout = reference.Layout(torch.tensor([0, 1]), (Partial(),))
    parts = [torch.full((4,), 1.0), torch.full((4,), 2.0)]
    src = {"g": reference.source(parts, layout, rank), "h": reference.source([p.double() for p in parts], layout, rank)}
    dst = {"g": torch.zeros(4), "h": torch.zeros(4, dtype=torch.float64)}
    merak.reshard_state_dict(src if rank < 2 else None, dst if rank == 2 else None)
    if rank == 2:
        assert dst["g"].tolist() == dst["h"].tolist() == [3.0] * 4


def test_values_are_added_up_on_their_way(run: Runner) -> None:
    run(partial_sources, world_size=3)


def faulty(context: Context, what: str, text: str) -> str:
    rank = context.rank
    values = torch.arange(10.0)
    src: dict[str, Any] | None = {"w": values} if rank == 0 else None
    dst: dict[str, Any] | None = {"w": torch.zeros(10)} if rank == 1 else None
    if what == "no source":
        src = {"v": values} if rank == 0 else None
    elif what == "shape":
        dst = {"w": torch.zeros(5, 2)} if rank == 1 else None
    elif what == "differs":
        src = {"w": values.double() if rank == 2 else values} if rank != 1 else None
    elif what == "missing":
        x = reference.source([values], reference.Layout(torch.tensor([0, 2]), (Shard(0),)), rank)
        src = {"w": x} if rank == 0 else None
    elif what == "twice":
        src = {"w": values, "a.b": values, "a": {"b": values}} if rank == 0 else None
    elif what == "no number":
        layout = reference.Layout(torch.tensor([0, 2]), (Partial("avg"),))
        src = {"w": reference.source([values.int(), values.int()], layout, rank)} if rank != 1 else None
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        merak.reshard_state_dict(src, dst)
    after = torch.ones(1)
    dist.all_reduce(after)  # the group goes on
    assert after.item() == context.world_size
    return str(caught.value)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("no source", "'w' is in no rank's src"),
        ("shape", "has shape (10,) in src and (5, 2) in dst"),
        ("differs", "'w' of src is not the same on rank 0 and on rank 2"),
        ("missing", "'w' of src is missing on rank 2"),
        ("twice", "on rank 0: two tensors are called 'a.b'"),
        ("no number", "int32"),
    ],
)
def test_what_does_not_fit_is_the_same_error_everywhere(run: Runner, what: str, text: str) -> None:
    assert len(set(run(faulty, what, text, world_size=3))) == 1


def model_parameters(context: Context) -> None:
    """An optimizer's nested state, and a module's, between unlike data parallel groups."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    mine = {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]}
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if context.rank > 0:
        for tensor in model.state_dict().values():
            tensor.zero_()
    merak.reshard_state_dict(mine if context.rank == 0 else None, mine if context.rank > 0 else None)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_nested_states_of_a_model(run: Runner) -> None:
    run(model_parameters, world_size=3)
