"""How loops over LookAhead end: too soon on one rank, by an error; and what has to be done outside of them."""

from __future__ import annotations

import contextlib
import functools
import resource
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import merak.embedding
from merak.embedding import LookAhead, ShardedEmbedding
from tests.backend.harness import Context, RankPool

ROWS = 40


def ends_sooner(context: Context, batches: list[int]) -> str:
    tables = [ShardedEmbedding(ROWS, 4), ShardedEmbedding(ROWS, 4)]
    optimizer = merak.embedding.SGD([table.weight for table in tables], lr=0.1)
    loader = [torch.tensor([1, step]) for step in range(batches[context.rank])]

    def loop() -> None:
        for batch in LookAhead(loader, lambda ids: {tables[0]: ids[:0], tables[1]: ids}, optimizer):
            sum(table(batch[:0] if table is tables[0] else batch).sum() for table in tables).backward()  # type: ignore
            optimizer.step()

    with pytest.raises((ValueError, dist.DistError)) as caught:
        loop()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("batches", [[6, 5, 6], [9, 3, 9], [2, 1, 2]])
def test_a_loader_that_ends_sooner(pool: RankPool, batches: list[int]) -> None:
    texts = pool.run(ends_sooner, batches, world_size=3)
    assert f"this rank's data loader has ended after {batches[1]} batches" in texts[1]
    for text in (texts[0], texts[2]):
        assert "rank 1" in text


def resident_bytes(_: Context) -> list[int]:
    """After each step: the memory of the process. Circles through gradient functions are seen by no garbage
    collector."""
    table = ShardedEmbedding(4096, 64)
    batches = [torch.randint(4096, (4096,)) for _ in range(60)]
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.1)
    sizes = []
    for batch in LookAhead(batches, lambda ids: {table: ids}, optimizer):
        table(batch).sum().backward()
        optimizer.step()
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    return sizes


def test_batches_of_the_past_are_forgotten(pool: RankPool) -> None:
    of_a_batch = 4096 * 64 * 4  # bytes of its rows; its gradient has as many
    for sizes in pool.run(resident_bytes):
        assert sizes[-1] - sizes[19] < 20 * of_a_batch, sizes  # a quarter of what 40 steps would keep


def conversions(_: Context) -> None:
    table = ShardedEmbedding(ROWS, 4)
    ids = torch.tensor([1, 2])
    for batch in LookAhead([ids] * 3, lambda ids: {table: ids}, merak.embedding.SGD(table.parameters(), lr=0.1)):
        with pytest.raises(ValueError, match=r"make it torch\.float64 on cpu outside the loop"):
            torch.nn.Sequential(table).double()
        assert table.to("cpu") is table.float()
        assert table(batch).dtype == torch.float32
    assert table.double()(ids).dtype == torch.float64


def test_tables_are_converted_outside_the_loop(pool: RankPool) -> None:
    pool.run(conversions)


def clipped_by_torch(context: Context) -> None:
    """What is wrong is said once, by step(), and the loop ends quietly; so it does in a group that has failed."""
    table, ids = ShardedEmbedding(ROWS, 4), torch.tensor([1, 2])
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.1)
    loop = iter(LookAhead([ids] * 4, lambda ids: {table: ids}, optimizer))
    table(next(loop)).sum().backward()
    torch.nn.utils.clip_grad_norm_(table.parameters(), 1.0)
    with pytest.raises(RuntimeError, match=r"clip by merak\.embedding\.clip_grad_norm_"):
        optimizer.step()
    with pytest.warns(UserWarning, match="the last gradient is lost"):
        loop.close()  # type: ignore[attr-defined]
    assert table.weight.grad is None
    loop = iter(LookAhead([ids] * 4, lambda ids: {table: ids}, optimizer))
    table(next(loop))
    fails = functools.partial(table, ids) if context.rank == 1 else dist.barrier  # rank 1: refused, a second time
    with pytest.raises((ValueError, dist.DistError)):
        fails()
    with contextlib.suppress(dist.DistError):
        dist.barrier()
    loop.close()  # type: ignore[attr-defined]
    assert table.ahead is None


def test_a_loop_that_raised_ends_quietly(pool: RankPool) -> None:
    pool.run(clipped_by_torch, world_size=2)
