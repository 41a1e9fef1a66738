"""How a group begins and ends: one after the other, used after its end, aborted, timed out, split, of one rank."""

from __future__ import annotations

import datetime
import os
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import merak.backend
from tests.backend.conftest import Runner
from tests.backend.harness import Context

WORLD_SIZES = (1, 2, 3, 4)


def every_call(context: Context) -> None:
    rank, size = context.rank, context.world_size
    ones = torch.ones(5)
    dist.all_reduce(ones)
    assert ones.tolist() == [size] * 5
    gathered = [torch.empty(2) for _ in range(size)]
    dist.all_gather(gathered, torch.full((2,), float(rank)))
    assert [one.tolist() for one in gathered] == [[r, r] for r in range(size)]
    objects: list[object] = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": r} for r in range(size)]
    dist.barrier()
    dist.monitored_barrier(timeout=datetime.timedelta(seconds=10))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_groups_of_every_size(run: Runner, world_size: int) -> None:
    run(every_call, world_size=world_size)


def listening(context: Context) -> int:
    tcp = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
    sockets = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit() and is_open(fd)}
    lines = [line.split() for path in tcp for line in Path(path).read_text().splitlines()[1:]]
    return sum(f"socket:[{fields[9]}]" in sockets and fields[3] == "0A" for fields in lines)


def is_open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def one_rank(context: Context) -> tuple[int, int]:
    before = listening(context)
    every_call(context)
    return before, listening(context)


def test_a_group_of_one_rank_opens_no_socket(run: Runner) -> None:
    ((before, after),) = run(one_rank, world_size=1)
    assert after <= before  # fewer: the listener of an earlier test's group may just be closing


def footprint() -> tuple[int, int]:
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def many_groups(context: Context, cycles: int) -> list[tuple[int, int]]:
    footprints = []
    for _ in range(cycles):
        group = dist.new_group(list(range(context.world_size)))
        ones = torch.ones(1)
        dist.all_reduce(ones, group=group)
        assert ones.item() == context.world_size
        dist.destroy_process_group(group)
        footprints.append(footprint())
    return footprints


def test_a_hundred_groups_leave_threads_and_descriptors_flat(run: Runner) -> None:
    for footprints in run(many_groups, 100):
        early, late = footprints[9], footprints[-1]
        assert late[0] <= early[0], footprints
        assert late[1] <= early[1] + 2, footprints  # a link may still be closing


def use_after_destroy(context: Context) -> str:
    group = dist.new_group(list(range(context.world_size)))
    dist.all_reduce(torch.ones(1), group=group)
    below = group._get_backend(torch.device("cpu"))
    dist.destroy_process_group(group)
    below.shutdown()  # once more does no harm
    with pytest.raises(dist.DistNetworkError) as caught:
        below.allreduce([torch.ones(1)]).wait()
    return str(caught.value)


def test_a_destroyed_group_says_so(run: Runner) -> None:
    for text in run(use_after_destroy):
        assert "was destroyed" in text
        assert "Create a new group" in text


def abort_while_waiting(context: Context) -> tuple[str, float]:
    group = dist.new_group(list(range(context.world_size)))
    dist.all_reduce(torch.ones(1), group=group)
    below = group._get_backend(torch.device("cpu"))
    start = time.monotonic()
    if context.rank == 0:
        timer = threading.Timer(0.3, below.abort)
        timer.start()
    work = below.recv([torch.ones(1)], 1 - context.rank, 0)
    with pytest.raises(dist.DistError) as caught:
        work.wait()
    return str(caught.value), time.monotonic() - start


def test_abort_ends_waits_on_all_ranks(run: Runner) -> None:
    for text, seconds in run(abort_while_waiting):
        assert "abort" in text
        assert seconds < 5


def destroy_while_opening(context: Context) -> tuple[str, float]:
    if context.rank == 0:
        return "", 0.0
    dist.destroy_process_group()
    dist.init_process_group("merak", store=dist.PrefixStore("alone", context.store), rank=1, world_size=2)
    texts = []

    def open_it() -> None:
        with pytest.raises(dist.DistNetworkError) as caught:
            dist.all_reduce(torch.ones(1))  # waits for rank 0 to create the group
        texts.append(str(caught.value))

    thread = threading.Thread(target=open_it)
    thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    dist.destroy_process_group()
    thread.join()
    return texts[0], time.monotonic() - start


def test_a_group_is_destroyed_while_another_thread_opens_it(run: Runner) -> None:
    _, (text, seconds) = run(destroy_while_opening)
    assert "was destroyed" in text
    assert seconds < 5


def give_other_memory(context: Context) -> list[float]:
    if context.rank == 1:
        time.sleep(0.5)
    x = torch.ones(1 << 20)
    memory = x.detach()
    work = dist.all_reduce(x, async_op=True)
    if context.rank == 0:
        del memory
    x.data = torch.zeros(1)
    _ = [torch.full((1 << 20,), 7.0) for _ in range(4)]  # where the memory would be used again
    work.wait()
    return [] if context.rank == 0 else [memory.min().item(), memory.max().item()]


def test_a_tensor_may_get_other_memory_meanwhile(run: Runner) -> None:
    assert run(give_other_memory) == [[], [2.0, 2.0]]


def wait_too_short(context: Context) -> str:
    if context.rank == 1:
        time.sleep(1.0)
    work = dist.all_reduce(torch.ones(1), async_op=True)
    text = ""
    if context.rank == 0:
        with pytest.raises(dist.DistBackendError) as caught:
            work.wait(datetime.timedelta(milliseconds=100))
        text = str(caught.value)
    work.wait()  # the operation itself goes on
    return text


def test_a_wait_may_end_before_its_operation(run: Runner) -> None:
    text, _ = run(wait_too_short)
    assert "all_reduce(float32, sum, 4 bytes)" in text
    assert "given to wait()" in text


def operation_timeout(context: Context) -> str:
    group = dist.new_group(list(range(context.world_size)), timeout=datetime.timedelta(seconds=1))
    dist.all_reduce(torch.ones(1), group=group)
    if context.rank == 1:
        time.sleep(2.5)
        return ""
    with pytest.raises(dist.DistBackendError) as caught:
        dist.all_reduce(torch.ones(1), group=group)
    return str(caught.value)


def test_an_operation_that_times_out_names_who_is_late(run: Runner) -> None:
    text, _ = run(operation_timeout)
    assert "all_reduce" in text
    assert "rank 1" in text


def split_and_mesh(context: Context) -> None:
    halves = dist.split_group(split_ranks=[[0, 1], [2, 3]])
    ones = torch.ones(2)
    dist.all_reduce(ones, group=halves)
    assert ones.tolist() == [2, 2]
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    for name in ("a", "b"):
        value = torch.tensor([float(context.rank)])
        dist.all_reduce(value, group=mesh.get_group(name))
        assert value.item() == sum(mesh[name].mesh.tolist())


def test_split_group_and_device_mesh(run: Runner) -> None:
    run(split_and_mesh, world_size=4)


def counted(context: Context) -> tuple[dict[str, int], dict[str, int]]:
    before = dict(merak.backend.statistics())
    dist.all_reduce(torch.ones(1 << 18))
    return before, dict(merak.backend.statistics())


def test_statistics_count_what_was_sent(run: Runner) -> None:
    for before, after in run(counted):
        assert after["operations"] == before["operations"] + 1
        assert 1 << 20 <= after["bytes_sent"] - before["bytes_sent"] < (1 << 20) + (1 << 14)
