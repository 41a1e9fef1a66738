"""Sends and receives: tags, any source, batches, many in flight, coalescing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.backend import torch_internals
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]


def message(source: int, tag: int, elements: int = 5) -> torch.Tensor:
    return torch.full((elements,), 100.0 * source + tag)


def tags_in_another_order(context: Context, count: int) -> list[float]:
    """Rank 0 sends with ascending tags; rank 1 receives in an order of its own."""
    tags = list(range(count))
    if context.rank == 0:
        works = [dist.isend(message(0, tag), dst=1, tag=tag) for tag in tags]
        for work in works:
            work.wait()
        return []
    random.Random(1).shuffle(tags)
    received = {tag: torch.zeros(5) for tag in tags}
    works = [dist.irecv(received[tag], src=0, tag=tag) for tag in tags]
    for work in reversed(works):
        work.wait()
    return [received[tag][4].item() for tag in sorted(tags)]


def test_messages_are_matched_by_tag(run: Runner) -> None:
    assert run(tags_in_another_order, 50)[1] == [float(tag) for tag in range(50)]


def same_tag_in_order(context: Context, count: int) -> list[float]:
    if context.rank == 0:
        for index in range(count):
            dist.send(message(0, index), dst=1, tag=7)
        return []
    received = []
    for _ in range(count):
        x = torch.zeros(5)
        assert dist.recv(x, src=0, tag=7) == 0
        received.append(x[0].item())
    return received


def test_messages_of_one_tag_keep_their_order(run: Runner) -> None:
    assert run(same_tag_in_order, 30)[1] == [float(index) for index in range(30)]


def from_anyone(context: Context, per_rank: int) -> list[tuple[int, float]]:
    if context.rank != 0:
        for index in range(per_rank):
            dist.send(message(context.rank, index), dst=0)
        return []
    received = []
    for _ in range(per_rank * (context.world_size - 1)):
        x = torch.zeros(5)
        source = dist.recv(x)
        received.append((source, x[2].item()))
    return received


def test_receiving_from_any_source(run: Runner) -> None:
    received = run(from_anyone, 6, world_size=4)[0]
    for source in (1, 2, 3):
        assert [value for sender, value in received if sender == source] == [100.0 * source + i for i in range(6)]


def ring(context: Context, elements: int, dtype: torch.dtype) -> torch.Tensor:
    to, source = (context.rank + 1) % context.world_size, (context.rank - 1) % context.world_size
    x = torch.full((elements,), context.rank + 1).to(dtype)
    y = torch.zeros(elements, dtype=dtype)
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, x, to), dist.P2POp(dist.irecv, y, source)]):
        work.wait()
    return y


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bool, torch.uint8, torch.complex64, torch.int16, torch.bfloat16]
)
@pytest.mark.parametrize("elements", [0, 1, 1_000_003])
def test_batches_of_sends_and_receives(run: Runner, elements: int, dtype: torch.dtype) -> None:
    for rank, got in enumerate(run(ring, elements, dtype, world_size=3)):
        assert torch.equal(got, torch.full((elements,), (rank - 1) % 3 + 1).to(dtype))


def everyone_to_everyone(context: Context, rounds: int) -> list[float]:
    """Many messages in flight at once, of many sizes, with receives posted late."""
    n = context.world_size
    peers = [peer for peer in range(n) if peer != context.rank]
    sizes = [1 + 997 * index**2 for index in range(rounds)]
    sends = [dist.isend(message(context.rank, i, size), dst=p, tag=i) for i, size in enumerate(sizes) for p in peers]
    boxes = {(p, i): torch.zeros(size) for i, size in enumerate(sizes) for p in peers}
    receives = [dist.irecv(box, src=p, tag=i) for (p, i), box in reversed(boxes.items())]
    for work in sends + receives:
        work.wait()
    return [box[-1].item() - 100 * p - i for (p, i), box in boxes.items()]


def test_many_messages_in_flight(run: Runner) -> None:
    for differences in run(everyone_to_everyone, 10, world_size=4):
        assert set(differences) == {0.0}


def strided_ends(context: Context) -> torch.Tensor:
    if context.rank == 0:
        dist.send(torch.arange(12.0).reshape(3, 4).t(), dst=1)
    x = torch.zeros(4, 3)
    if context.rank == 1:
        dist.recv(x, src=0)
    return x


def test_what_is_sent_need_not_be_contiguous(run: Runner) -> None:
    assert torch.equal(run(strided_ends)[1], torch.arange(12.0).reshape(3, 4).t())


def coalesce(context: Context) -> list[torch.Tensor]:
    n, rank = context.world_size, context.rank
    reduced = [torch.full((size,), float(rank)) for size in (3, 0, 1000)]
    gathered = [torch.zeros(n * size) for size in (2, 5)]
    scattered = [torch.zeros(size) for size in (2, 5)]
    torch_internals.coalesced(lambda: [dist.all_reduce(x) for x in reduced]).wait()
    torch_internals.coalesced(
        lambda: [dist.all_gather_into_tensor(y, torch.full((y.numel() // n,), float(rank))) for y in gathered]
    ).wait()
    torch_internals.coalesced(
        lambda: [dist.reduce_scatter_tensor(y, torch.arange(float(n * y.numel()))) for y in scattered]
    ).wait()
    return reduced + gathered + scattered


def test_coalescing_manager(run: Runner) -> None:
    for rank, got in enumerate(run(coalesce, world_size=3)):
        reduced = [torch.full((size,), 3.0) for size in (3, 0, 1000)]
        gathered = [torch.arange(3.0).repeat_interleave(size) for size in (2, 5)]
        scattered = [3 * torch.arange(size * rank, size * (rank + 1)).float() for size in (2, 5)]
        torch.testing.assert_close(got, reduced + gathered + scattered)


def after_a_batch_that_was_refused(context: Context) -> tuple[list[float], list[float]]:
    with pytest.raises(ValueError, match="contiguous"):
        dist.batch_isend_irecv([dist.P2POp(dist.irecv, torch.zeros(2, 3).t(), 1 - context.rank)])
    ones = torch.ones(2)
    dist.all_reduce(ones)
    peer = 1 - context.rank
    received = torch.zeros(1)
    own = torch.full((1,), float(context.rank))
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, own, peer), dist.P2POp(dist.irecv, received, peer)]):
        work.wait()
    return ones.tolist(), received.tolist()


def test_a_batch_that_was_refused_leaves_nothing_behind(run: Runner) -> None:
    assert run(after_a_batch_that_was_refused) == [([2.0, 2.0], [1.0]), ([2.0, 2.0], [0.0])]


def after_a_coalescing_that_failed(context: Context) -> list[float]:
    coalescing = dist.distributed_c10d._coalescing_manager
    group = dist.new_group(list(range(context.world_size)))
    with pytest.raises(KeyError), coalescing(group, device=torch.device("cpu")):
        raise KeyError
    dist.distributed_c10d._world.pg_coalesce_state.pop(group)  # torch's own trace
    ones = torch.ones(2)
    with coalescing(group, device=torch.device("cpu")):
        dist.all_reduce(ones, group=group)
    return ones.tolist()


def test_a_coalescing_that_failed_leaves_nothing_behind(run: Runner) -> None:
    assert run(after_a_coalescing_that_failed) == [[2.0, 2.0], [2.0, 2.0]]
