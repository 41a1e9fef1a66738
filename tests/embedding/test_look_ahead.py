"""Training with a look-ahead beside the same training without one, and one process with the global batch."""

from __future__ import annotations

import unittest.mock
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist

import merak.embedding
from merak.embedding import LookAhead, ShardedEmbedding
from merak.embedding.module import Split
from merak.embedding.optimizers import RowOptimizer
from merak.embedding.table_ahead import TableAhead
from tests.backend.harness import Context, RankPool

from .test_sharded_embedding import ROWS, SPLITS, loss_of, tokens

STEPS = 20

OPTIMIZERS: dict[str, tuple[Callable[..., RowOptimizer], Callable[..., torch.optim.Optimizer]]] = {
    "SGD": (lambda tables: merak.embedding.SGD(tables, lr=0.05), lambda tables: torch.optim.SGD(tables, lr=0.05)),
    "Adagrad": (
        lambda tables: merak.embedding.Adagrad(tables, lr=0.1),
        lambda tables: torch.optim.Adagrad(tables, lr=0.1),
    ),
    "AdamW": (
        lambda tables: merak.embedding.AdamW(tables, lr=0.05, weight_decay=0),
        lambda tables: torch.optim.SparseAdam(tables, lr=0.05),
    ),
}


@dataclass(frozen=True)
class Loop:
    """How a table is trained."""

    optimizer: str = "Adagrad"
    batches: int = 0
    """0: without a look-ahead."""
    split: bool = True
    columns: int = 7
    padding: int | None = None
    accumulate: int = 1
    stop_after: int = STEPS
    uses: int = 1
    dtype: torch.dtype = torch.float64
    cut: Split = "columns"
    """How the table is split over ranks."""


def batches_of(rank: int) -> list[torch.Tensor]:
    return [tokens(step, rank) for step in range(STEPS)]


def uses_of(ids: torch.Tensor, uses: int) -> list[torch.Tensor]:
    return [ids] if uses == 1 else [ids[:1], ids, ids.flatten()[:2]]


def loader_of(loop: Loop, table: ShardedEmbedding, optimizer: RowOptimizer, rank: int) -> Iterator[torch.Tensor]:
    batches = batches_of(rank)
    if loop.batches == 0:
        return iter(batches)
    ahead = LookAhead(batches, lambda ids: {table: uses_of(ids, loop.uses)}, optimizer, loop.batches, split=loop.split)
    assert len(ahead) == STEPS
    return iter(ahead)


def train(context: Context, loop: Loop) -> tuple[torch.Tensor, list[float]]:
    """The table after it, and the losses."""
    torch.manual_seed(1)
    warnings.filterwarnings("ignore", message="a gradient is needed whole")
    table = ShardedEmbedding(ROWS, loop.columns, loop.padding, dtype=loop.dtype, split=loop.cut)
    optimizer = OPTIMIZERS[loop.optimizer][0](table.parameters())
    losses = []
    for step, ids in enumerate(loader_of(loop, table, optimizer, context.rank)):
        loss = torch.zeros((), dtype=loop.dtype)
        for one in uses_of(ids, loop.uses):
            loss = loss + loss_of(table(one).double(), one)
        loss.backward()
        losses.append(loss.item())
        if (step + 1) % loop.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        if step % 7 == 3:  # other reads of the table: of a table that has all updates
            with torch.no_grad():
                assert torch.equal(table(ids), table.whole_table().full_tensor()[ids])
        if step + 1 == loop.stop_after:
            break
    return table.state_dict()["weight"].full_tensor(), losses


def in_one_process(size: int, loop: Loop) -> torch.Tensor:
    torch.manual_seed(1)
    table = torch.nn.Embedding(ROWS, loop.columns, loop.padding, sparse=True, dtype=torch.float64)
    optimizer = OPTIMIZERS[loop.optimizer][1](table.parameters())
    for step in range(STEPS):
        loss = torch.zeros((), dtype=torch.float64)
        for rank in range(size):
            ids = tokens(step, rank)
            loss = loss + loss_of(table(ids), ids) / size
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return table.weight.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("batches", [1, 2, 3])
@pytest.mark.parametrize("cut", SPLITS)
def test_training_is_that_of_one_process(pool: RankPool, size: int, name: str, batches: int, cut: Split) -> None:
    loop = Loop(name, batches, padding=3 if size % 2 else None, cut=cut)
    expected = in_one_process(size, loop)
    for whole, _ in pool.run(train, loop, world_size=size):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


def test_eight_ranks(pool: RankPool) -> None:
    loop = Loop(batches=2, columns=20)
    expected = in_one_process(8, loop)
    for whole, _ in pool.run(train, loop, world_size=8):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "loop",
    [
        Loop(batches=1),
        Loop(batches=2),
        Loop("AdamW", batches=2, padding=2),
        Loop(batches=3, uses=3),
        Loop(batches=2, split=False),
        Loop(batches=2, stop_after=5),
        Loop(batches=30),
        Loop(batches=1, cut="rows"),
        Loop("AdamW", batches=2, padding=2, cut="rows"),
        Loop(batches=2, split=False, cut="rows"),
    ],
    ids=str,
)
def test_bits_are_those_without_it(pool: RankPool, loop: Loop, dtype: torch.dtype) -> None:
    ahead = Loop(**{**vars(loop), "dtype": dtype})
    without = Loop(**{**vars(ahead), "batches": 0})
    if loop.uses > 1 and dtype.itemsize == 2:
        pytest.skip("gradients of several uses are added up in 16 bits by autograd, in another order")
    for (table, losses), (table_without, losses_without) in zip(
        pool.run(train, ahead, world_size=3), pool.run(train, without, world_size=3), strict=True
    ):
        if loop.uses > 1:
            torch.testing.assert_close(table, table_without, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(table, table_without)
            assert losses == losses_without


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batches", [1, 2])
def test_gradients_of_several_passes_add_up(pool: RankPool, batches: int, dtype: torch.dtype) -> None:
    """Accumulated over two, and over three batches, one of them left over."""
    for accumulate in (2, 3):
        loop = Loop(batches=batches, accumulate=accumulate, dtype=dtype)
        without = Loop(accumulate=accumulate, dtype=dtype)
        for (ahead, _), (expected, _) in zip(
            pool.run(train, loop, world_size=3), pool.run(train, without, world_size=3), strict=True
        ):
            torch.testing.assert_close(ahead, expected, rtol=0, atol=1e-12)


def with_an_optimizer_of_torch(context: Context, ahead: bool) -> torch.Tensor:
    torch.manual_seed(1)
    table = ShardedEmbedding(ROWS, 6)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.05, momentum=0.9)
    batches = batches_of(context.rank)
    for ids in LookAhead(batches, lambda ids: {table: ids}) if ahead else batches:
        optimizer.zero_grad()
        loss_of(table(ids), ids).backward()
        optimizer.step()
    return table.whole_table().full_tensor()


def test_optimizers_of_torch_work_without_a_split(pool: RankPool) -> None:
    for ahead, expected in zip(
        *(pool.run(with_an_optimizer_of_torch, way, world_size=3) for way in (True, False)), strict=True
    ):
        assert torch.equal(ahead, expected)


def step_after(table: ShardedEmbedding, optimizer: torch.optim.Optimizer, loop: Iterable[torch.Tensor]) -> None:
    for ids in loop:
        loss_of(table(ids), ids).backward()
        optimizer.step()
        optimizer.zero_grad()


def step_before(table: ShardedEmbedding, optimizer: torch.optim.Optimizer, loop: Iterable[torch.Tensor]) -> None:
    for ids in loop:
        optimizer.step()
        optimizer.zero_grad()
        loss_of(table(ids), ids).backward()
    optimizer.step()


def two_steps(table: ShardedEmbedding, optimizer: torch.optim.Optimizer, loop: Iterable[torch.Tensor]) -> None:
    for ids in loop:
        loss = loss_of(table(ids), ids)
        for again in (True, False):
            loss.backward(retain_graph=again)
            optimizer.step()
            optimizer.zero_grad()


def skipped(table: ShardedEmbedding, optimizer: torch.optim.Optimizer, loop: Iterable[torch.Tensor]) -> None:
    for step, ids in enumerate(loop):
        loss_of(table(ids), ids).backward()
        if step % 3 != 1:
            optimizer.step()
        if step % 2:
            optimizer.zero_grad()
        else:
            table.zero_grad()


def one_backward_for_two(
    table: ShardedEmbedding, optimizer: torch.optim.Optimizer, loop: Iterable[torch.Tensor]
) -> None:
    total = torch.zeros((), dtype=torch.float64)
    for step, ids in enumerate(loop):
        total = total + loss_of(table(ids), ids)
        if step % 2:
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
            total = torch.zeros((), dtype=torch.float64)


def left_over(table: ShardedEmbedding, optimizer: torch.optim.Optimizer, loop: Iterable[torch.Tensor]) -> None:
    """With a gradient from before the loop."""
    ids = torch.arange(ROWS)
    loss_of(table(ids), ids).backward()
    step_after(table, optimizer, loop)


def changed(table: ShardedEmbedding, optimizer: torch.optim.Optimizer, loop: Iterable[torch.Tensor]) -> None:
    for ids in loop:
        rows = table(ids)
        rows *= 1.5  # in place
        loss_of(rows, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
        table.settle()
        with torch.no_grad():
            table.weight *= 0.9


LOOPS = [step_after, step_before, two_steps, skipped, one_backward_for_two, left_over, changed]


def habits(context: Context, loop: Callable[..., None], kind: str, batches: int, split: str) -> torch.Tensor:
    torch.manual_seed(1)
    warnings.filterwarnings("ignore", message="a gradient is needed whole")
    table = ShardedEmbedding(ROWS, 6, dtype=torch.float64, split=split)
    optimizer: torch.optim.Optimizer
    if kind == "torch":
        optimizer = torch.optim.Adagrad(table.parameters(), lr=0.1)
    elif kind == "row-wise":
        optimizer = merak.embedding.RowWiseAdagrad(table.parameters(), lr=0.1)
    else:
        optimizer = merak.embedding.AdamW(table.parameters(), lr=0.05)
    data = [torch.cat([ids, torch.tensor([[step, 1, 2]])]) for step, ids in enumerate(batches_of(context.rank))]
    of_merak = optimizer if isinstance(optimizer, RowOptimizer) else None
    loop(table, optimizer, LookAhead(data, lambda ids: {table: ids}, of_merak, batches) if batches else data)
    return table.whole_table().full_tensor()


@pytest.mark.parametrize("split", ["columns", "rows"])
@pytest.mark.parametrize("kind", ["merak", "row-wise", "torch"])
@pytest.mark.parametrize("loop", LOOPS)
def test_loops_of_all_kinds_give_the_same(pool: RankPool, loop: Callable[..., None], kind: str, split: str) -> None:
    expected = pool.run(habits, loop, kind, 0, split, world_size=3)
    for batches in (1, 2, 3):
        for ours, theirs in zip(pool.run(habits, loop, kind, batches, split, world_size=3), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def says_that_it_is_whole(_: Context) -> None:
    table = ShardedEmbedding(ROWS, 6)
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.1)
    ids = torch.tensor([1, 2])

    def loop() -> None:
        for batch in LookAhead([ids] * 4, lambda ids: {table: ids}, optimizer):
            table(batch).sum().backward()

    with pytest.warns(UserWarning, match="a gradient is needed whole"):
        loop()
    assert table.weight.grad is not None
    assert table.weight.grad.to_dense()[:3, 0].tolist() == [0, 4, 4]
    optimizer.step()


def test_a_gradient_that_is_needed_whole(pool: RankPool) -> None:
    pool.run(says_that_it_is_whole)


def several_epochs(context: Context) -> None:
    """A loop may be left early, and begun anew; two tables; a batch that reads nothing."""
    tables = [ShardedEmbedding(ROWS, 6), ShardedEmbedding(ROWS, 5)]
    optimizer = merak.embedding.SGD([table.weight for table in tables], lr=0.1)
    before = [table.whole_table().full_tensor() for table in tables]
    nothing = torch.zeros(0, dtype=torch.int64)
    ids = [torch.tensor([context.rank, 5]), nothing, torch.tensor([5, 5]), nothing]
    ahead = LookAhead(ids, lambda ids: dict.fromkeys(tables, ids), optimizer)
    for epoch in range(3):
        for step, batch in enumerate(ahead):
            sum(table(batch).sum() for table in tables).backward()  # type: ignore[union-attr]
            optimizer.step()
            if epoch == 1 and step == 0:
                break
    for table, old in zip(tables, before, strict=True):
        change = (table.whole_table().full_tensor() - old)[:, 0]
        # Of row 5, each time: both ranks once in the first batch, twice in the third.
        torch.testing.assert_close(change[5], torch.tensor(-0.1 * (1 + 2 + 1 + 1 + 2)))
        torch.testing.assert_close(change[:2], torch.tensor([-0.15, -0.15]))
    assert list(LookAhead([], lambda ids: {tables[0]: ids}, optimizer)) == []


def test_loops_end_and_begin_again(pool: RankPool) -> None:
    pool.run(several_epochs)


def not_announced(context: Context, ids: list[int]) -> str:
    table = ShardedEmbedding(ROWS, 4)
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.1)
    batches = [torch.tensor([1, 2])] * 3

    def loop() -> None:
        for step, batch in enumerate(LookAhead(batches, lambda ids: {table: ids}, optimizer)):
            table(torch.tensor(ids) if context.rank == 1 and step == 1 else batch).sum().backward()
            optimizer.step()

    with pytest.raises((ValueError, dist.DistError)) as caught:  # told of the refusal, or that the rank has left then
        loop()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("ids", [[1, 3], [1], [1, 2, 3]])
def test_a_batch_that_was_not_announced(pool: RankPool, ids: list[int]) -> None:
    texts = pool.run(not_announced, ids, world_size=3)
    assert texts[1].startswith("ValueError: embedding_lookup: these ids are not those that were announced")
    for text in (texts[0], texts[2]):
        assert "rank 1" in text


def travel_once(context: Context, batches: int) -> None:
    """Also of a table that was written to before the loop, as by load_state_dict."""
    table = ShardedEmbedding(ROWS, 4)
    table.load_state_dict({"weight": torch.ones(ROWS, 4)})
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.1)
    with unittest.mock.patch.object(TableAhead, "_look_up_again") as again:
        step_after(table, optimizer, LookAhead(batches_of(context.rank), lambda ids: {table: ids}, optimizer, batches))
    again.assert_not_called()


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_rows_travel_once(pool: RankPool, batches: int) -> None:
    pool.run(travel_once, batches)


def left_alone(context: Context) -> None:
    """Of two tables both are free again when another rank has left, though what is on its way in each cannot come."""
    tables = [ShardedEmbedding(ROWS, 4), ShardedEmbedding(ROWS, 5)]
    optimizer = merak.embedding.SGD([table.weight for table in tables], lr=0.1)
    ids = [torch.tensor([step, step + 1]) for step in range(9)]

    def loop() -> None:
        for step, batch in enumerate(LookAhead(ids, lambda ids: dict.fromkeys(tables, ids), optimizer)):
            if step == 3 and context.rank == 1:
                dist.destroy_process_group()
                return
            sum(table(batch).sum() for table in tables).backward()  # type: ignore[union-attr]
            optimizer.step()

    if context.rank == 1:
        loop()
    else:
        with pytest.raises(dist.DistError):
            loop()
    assert [table.ahead for table in tables] == [None, None]


def test_all_tables_are_free_after_an_error(pool: RankPool) -> None:
    pool.run(left_alone, world_size=3)


def misuse(_: Context) -> None:
    table = ShardedEmbedding(ROWS, 4)
    ids = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="batches is 0"):
        LookAhead([ids], lambda ids: {table: ids}, batches=0)
    with pytest.raises(ValueError, match="not one of merak"):
        LookAhead([ids], lambda ids: {table: ids}, torch.optim.SGD(table.parameters()))  # type: ignore[arg-type]
    for wrong in (3, [1, 2], [ids, 3]):
        with pytest.raises(ValueError, match="a tensor of ids, or a list of them"):
            next(iter(LookAhead([wrong], lambda ids: {table: ids})))  # type: ignore[arg-type,return-value]
    loop = iter(LookAhead([ids] * 3, lambda ids: {table: ids}))
    next(loop)
    with pytest.raises(ValueError, match="in the look-ahead of another loop"):
        next(iter(LookAhead([ids], lambda ids: {table: ids})))
    with pytest.raises(RuntimeError, match="outside the loop"):
        table.load_state_dict({"weight": torch.zeros(ROWS, 4)})
    table(ids)
    with pytest.raises(ValueError, match="more often than the 1 times"):
        table(ids)


def more_misuse(_: Context) -> None:
    table, other = ShardedEmbedding(ROWS, 4), ShardedEmbedding(ROWS, 4)
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.1)
    ids = torch.tensor([1, 2])
    ahead = LookAhead([ids] * 4, lambda ids: {table: ids}, optimizer)
    loop = iter(ahead)
    table(next(loop)).sum().backward()
    with pytest.raises(ValueError, match="has not ended"):
        next(iter(ahead))
    taken = LookAhead([ids], lambda ids: {other: ids, table: ids})
    with pytest.raises(ValueError, match="in the look-ahead of another loop"):
        next(iter(taken))
    assert other.ahead is None
    assert table.weight.grad is not None
    assert table.weight.grad.coalesce().values().isnan().all()
    table.weight.grad.zero_()
    with pytest.raises(RuntimeError, match="stands for rows that are on their way"):
        optimizer.step()
    table.weight.grad = None
    table.eval()
    rows = table(ids)
    with pytest.raises(RuntimeError, match="read without gradients"):
        rows.sum().backward()
    table.train()
    table(next(loop)).sum().backward()
    with pytest.warns(UserWarning, match="the last gradient is lost"):
        loop.close()
    for wrong in ({"table": ids}, ids):
        with pytest.raises(ValueError, match="has to return a dictionary of ShardedEmbedding"):
            next(iter(LookAhead([ids], lambda _, wrong=wrong: wrong)))  # type: ignore[misc]
    with pytest.raises(ValueError, match="one tensor at least"):
        next(iter(LookAhead([ids], lambda _: {other: []})))
    assert other.ahead is None


def test_more_misuse_is_told(pool: RankPool) -> None:
    pool.run(more_misuse)


def fewer_uses(_: Context) -> None:
    table = ShardedEmbedding(ROWS, 4)
    loop = iter(LookAhead([torch.tensor([1, 2])] * 3, lambda ids: {table: [ids, ids]}))
    table(next(loop))
    with pytest.raises(ValueError, match="looked up 1 times for a batch of which 2 were announced"):
        next(loop)


def test_fewer_uses_than_announced(pool: RankPool) -> None:
    pool.run(fewer_uses)


def test_misuse_is_told(pool: RankPool) -> None:
    pool.run(misuse)


def outside(context: Context) -> str:
    table = ShardedEmbedding(ROWS, 4)
    batches = [torch.tensor([1]), torch.tensor([2]), torch.tensor([3 if context.rank else ROWS])]

    def loop() -> None:
        for batch in LookAhead(batches, lambda ids: {table: ids}):
            table(batch).sum().backward()

    with pytest.raises(dist.DistBackendError) as caught:
        loop()
    return str(caught.value)


def test_an_announced_id_outside_the_table(pool: RankPool) -> None:
    for text in pool.run(outside, world_size=3):
        assert f"rank 0 cannot take part: id {ROWS}, at position 0, is outside an embedding of {ROWS} rows" in text
