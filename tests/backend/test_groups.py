"""Groups of ranks: meshes, subgroups, split groups; several at once, one after another, of one rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from tests.backend.conftest import BACKEND
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]


def members(group: dist.ProcessGroup | None) -> list[int]:
    """The ranks of a group, learnt by a collective over it."""
    mine = torch.tensor([dist.get_rank()])
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    return [int(rank) for rank in everyone]


def mesh_members(context: Context) -> tuple[list[int], ...]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    flattened = mesh["outer", "inner"]._flatten("all")
    return members(mesh.get_group("outer")), members(mesh.get_group("inner")), members(flattened.get_group())


def test_mesh_dimensions_are_groups(run: Runner) -> None:
    for rank, (outer, inner, flattened) in enumerate(run(mesh_members, world_size=4)):
        assert outer == [rank % 2, rank % 2 + 2]
        assert inner == [rank // 2 * 2, rank // 2 * 2 + 1]
        assert flattened == [0, 1, 2, 3]


def subgroup_members(context: Context, subsets: Sequence[list[int]], local: bool) -> list[list[int]]:
    """Members of each group that this rank belongs to; with `local`, only members take part in making a group."""
    found = []
    for ranks in subsets:
        if local and context.rank not in ranks:
            continue
        group = dist.new_group(ranks, use_local_synchronization=local)
        if context.rank in ranks:
            found.append(members(group))
    return found


@pytest.mark.parametrize(
    ("subsets", "local"),
    [([[0, 2], [1, 2, 3], [3], [0, 1, 2, 3]], False), ([[0, 2], [1, 3]], True)],
    ids=["all ranks take part", "members only"],
)
def test_new_groups(run: Runner, subsets: list[list[int]], local: bool) -> None:
    for rank, found in enumerate(run(subgroup_members, subsets, local, world_size=4)):
        assert found == [ranks for ranks in subsets if rank in ranks]


def enumerated(context: Context) -> tuple[list[int], list[int]]:
    halves, _ = dist.new_subgroups(2)
    pairs, _ = dist.new_subgroups_by_enumeration([[0, 3], [1, 2]])
    return members(halves), members(pairs)


def test_new_subgroups(run: Runner) -> None:
    results = run(enumerated, world_size=4)
    assert [half for half, _ in results] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [pair for _, pair in results] == [[0, 3], [1, 2], [1, 2], [0, 3]]


def split(context: Context) -> list[int]:
    group = dist.split_group(None, [[0, 2], [1, 3]])
    assert group is not None
    found = members(group)
    dist.destroy_process_group(group)
    assert members(None) == list(range(4))
    return found


def test_split_group(run: Runner) -> None:
    if BACKEND == "gloo":
        pytest.skip("the group keeps to the names under which Gloo registers devices")
    assert run(split, world_size=4) == [[0, 2], [1, 3], [0, 2], [1, 3]]


def alternate(context: Context, count: int) -> list[float]:
    groups = [dist.new_group([0, 1, 2]) for _ in range(count)]
    tensors = [torch.full((100 + index,), float(context.rank + index)) for index in range(count)]
    order = range(count) if context.rank % 2 else reversed(range(count))
    works = [dist.all_reduce(tensors[index], group=groups[index], async_op=True) for index in order]
    for work in works:
        work.wait()
    return [tensor[0].item() for tensor in tensors]


def test_many_groups_in_opposite_orders(run: Runner) -> None:
    for sums in run(alternate, 12, world_size=3):
        assert sums == [3.0 + 3 * index for index in range(12)]


def create_and_destroy(context: Context, times: int) -> int:
    for _ in range(times):
        group = dist.new_group([0, 1])
        dist.barrier(group)
        dist.destroy_process_group(group)
    return len(members(None))


def test_groups_made_and_destroyed_in_turn(run: Runner) -> None:
    assert run(create_and_destroy, 20) == [2, 2]


def facts(context: Context) -> tuple[str, int, int, int]:
    dist.all_reduce(torch.ones(1))
    before = dist.group.WORLD._get_sequence_number_for_group()
    dist.all_reduce(torch.ones(1))
    after = dist.group.WORLD._get_sequence_number_for_group()
    return dist.get_backend(), dist.get_rank(), dist.get_world_size(), after - before


def test_what_a_group_says_of_itself(run: Runner) -> None:
    for rank, found in enumerate(run(facts, world_size=3)):
        assert found == (BACKEND, rank, 3, 1)


def alone(context: Context) -> list[float]:
    x, parts = torch.arange(3.0), [torch.zeros(3)]
    dist.all_reduce(x)
    dist.broadcast(x, 0)
    dist.all_gather(parts, x)
    dist.reduce_scatter(x, parts)
    dist.all_to_all_single(parts[0], x)
    dist.barrier()
    return parts[0].tolist()


def test_a_group_of_one(run: Runner) -> None:
    assert run(alone, world_size=1) == [[0.0, 1.0, 2.0]]


def reinitialise(context: Context, backend: str) -> tuple[list[int], list[int]]:
    dist.destroy_process_group()
    found = []
    for attempt in range(2):
        store = dist.PrefixStore(f"again{attempt}", context.store)
        dist.init_process_group(backend, store=store, rank=context.rank, world_size=context.world_size)
        found.append(members(None))
        dist.destroy_process_group()
    return found[0], found[1]


@pytest.mark.parametrize("backend", [BACKEND, f"cpu:{BACKEND}"])
def test_initialised_again_after_destroy(run: Runner, backend: str) -> None:
    assert run(reinitialise, backend) == [([0, 1], [0, 1])] * 2


def reduce_on_both_devices(context: Context, backend: str) -> tuple[float, float]:
    dist.destroy_process_group()
    store = dist.PrefixStore("both", context.store)
    device = torch.device("cuda", context.rank)
    torch.cuda.set_device(device)
    dist.init_process_group(backend, store=store, rank=context.rank, world_size=context.world_size, device_id=device)
    on_cpu, on_cuda = torch.ones(3), torch.ones(3, device=device)
    dist.all_reduce(on_cpu)
    dist.all_reduce(on_cuda)
    return on_cpu[0].item(), on_cuda[0].item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", [f"cpu:{BACKEND},cuda:nccl", f"cpu:gloo,cuda:{BACKEND}", BACKEND])
def test_a_backend_for_each_device(run: Runner, backend: str) -> None:
    size = min(2, torch.cuda.device_count())
    assert run(reduce_on_both_devices, backend, world_size=size) == [(size, size)] * size
