"""ShardedEmbedding beside torch.nn.Embedding: one process with the global batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

import merak.embedding
from merak.embedding.module import Split
from tests.backend.harness import Context, RankError, RankPool

ROWS = 40

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "SparseAdam": lambda parameters: torch.optim.SparseAdam(parameters, lr=0.05),
    "momentum of rows": lambda parameters: merak.embedding.SGD(parameters, 0.02, momentum=0.9),
    "Adagrad of rows": lambda parameters: merak.embedding.Adagrad(parameters, 0.1),
    "row-wise Adagrad": lambda parameters: merak.embedding.RowWiseAdagrad(parameters, 0.1),
    "AdamW of rows": lambda parameters: merak.embedding.AdamW(parameters, 0.05, weight_decay=0.1),
}


SPLITS: tuple[Split, ...] = ("columns", "rows")


def tokens(step: int, rank: int) -> torch.Tensor:
    """Of another number on each rank and at each step, none among them; some rows often."""
    random = torch.Generator().manual_seed(100 * step + rank)
    count = int(torch.randint(0, 12, (), generator=random)) * int((step + rank) % 4 != 0)
    return (torch.rand(count, 3, generator=random) ** 2 * ROWS).long()


def target(ids: torch.Tensor, columns: int) -> torch.Tensor:
    return (ids.unsqueeze(-1) + torch.arange(columns)).to(torch.float64).sin()


def loss_of(rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return ((rows - target(ids, rows.shape[-1])) ** 2 * (1 + ids.unsqueeze(-1) % 5)).sum()


def training(
    context: Context,
    columns: int,
    name: str,
    padding: int | None,
    passes: int = 1,
    rows: int = ROWS,
    split: Split = "columns",
    hot: list[int] | None = None,
) -> torch.Tensor:
    """With so many backward passes in a step."""
    torch.manual_seed(1)
    copies = None if hot is None else torch.tensor(hot)
    table = merak.embedding.ShardedEmbedding(rows, columns, padding, dtype=torch.float64, split=split, hot=copies)
    optimizer = OPTIMIZERS[name](table.parameters())
    for step in range(20):
        optimizer.zero_grad()
        for part in range(passes):
            ids = tokens(step + 20 * part, context.rank) % rows
            loss_of(table(ids), ids).backward()
        assert table.weight.grad is not None
        assert table.weight.grad.is_coalesced()
        optimizer.step()
    return table.whole_table().full_tensor()


def in_one_process(
    size: int, columns: int, name: str, padding: int | None, passes: int = 1, rows: int = ROWS
) -> torch.Tensor:
    """With so many batches in one backward pass."""
    torch.manual_seed(1)
    table = torch.nn.Embedding(rows, columns, padding, sparse=True, dtype=torch.float64)
    optimizer = OPTIMIZERS[name](table.parameters())
    for step in range(20):
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for part, rank in itertools.product(range(passes), range(size)):
            ids = tokens(step + 20 * part, rank) % rows
            loss = loss + loss_of(table(ids), ids) / size
        loss.backward()
        optimizer.step()
    return table.weight.detach()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("size", "columns"), [(1, 5), (2, 8), (3, 7), (4, 16), (4, 9), (3, 2)])
def test_training_is_that_of_one_process(pool: RankPool, size: int, columns: int, name: str) -> None:
    padding = 3 if columns % 2 else None
    expected = in_one_process(size, columns, name, padding)
    for whole in pool.run(training, columns, name, padding, world_size=size):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("size", "rows"), [(1, 5), (2, 8), (3, 40), (4, 9), (4, 3), (2, 1)])
def test_training_of_tables_that_are_split_by_rows(pool: RankPool, size: int, rows: int, name: str) -> None:
    """With ranks that have fewer rows than others, or none, and the padding row on each of them."""
    padding = rows * 2 // 3 if rows > 1 else None
    expected = in_one_process(size, 5, name, padding, rows=rows)
    for whole in pool.run(training, 5, name, padding, rows=rows, split="rows", world_size=size):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_of_several_passes_are_those_of_one(pool: RankPool, name: str, split: Split) -> None:
    expected = in_one_process(3, 7, name, None, passes=2)
    for whole in pool.run(training, 7, name, None, passes=2, split=split, world_size=3):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


def sums_of_rows(context: Context, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(1)
    table = merak.embedding.ShardedEmbedding(ROWS, 9, dtype=dtype)
    optimizer = merak.embedding.RowWiseAdagrad(table.parameters(), 0.1)
    for step in range(5):
        optimizer.zero_grad()
        table(tokens(step, context.rank)).sin().sum().backward()
        optimizer.step()
    sums: torch.Tensor = optimizer.state_dict()["state"][0]["sum"]
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_remembered_of_rows_has_the_same_bits_on_all_ranks(pool: RankPool, dtype: torch.dtype) -> None:
    first, *others = pool.run(sums_of_rows, dtype, world_size=4)
    assert first.shape == (ROWS,)
    assert first.count_nonzero() > ROWS // 2
    for sums in others:
        assert torch.equal(sums, first)


@pytest.mark.parametrize("split", SPLITS)
def test_eight_ranks(pool: RankPool, split: Split) -> None:
    expected = in_one_process(8, 20, "Adagrad", None)
    for whole in pool.run(training, 20, "Adagrad", None, split=split, world_size=8):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


def integers(context: Context, dtype: torch.dtype, split: Split) -> None:
    """Bit-equal: values small enough to be added up in any order, an average over two ranks."""
    whole = torch.arange(ROWS * 6).view(ROWS, 6).remainder(64).to(dtype)
    table = merak.embedding.ShardedEmbedding(ROWS, 6, dtype=dtype, split=split)
    table.load_state_dict({"weight": whole})
    reference = torch.nn.Embedding(ROWS, 6, dtype=dtype)
    reference.load_state_dict({"weight": whole})
    for step in range(5):
        loss = torch.zeros((), dtype=dtype)
        for rank in range(context.world_size):
            ids = tokens(step, rank)
            gradient = (ids.unsqueeze(-1) % 7 - 3 + torch.arange(6)).to(dtype) * 2
            expected = reference(ids)
            if rank == context.rank:
                rows = table(ids)
                assert torch.equal(rows, expected)
                rows.backward(gradient)
            loss = loss + (expected * gradient).sum() / context.world_size
        loss.backward()
        with torch.no_grad():
            assert table.weight.grad is not None
            assert reference.weight.grad is not None
            table.weight -= table.weight.grad.to_dense()
            reference.weight -= reference.weight.grad
        table.weight.grad = reference.weight.grad = None
        assert torch.equal(table.whole_table().full_tensor(), reference.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("split", SPLITS)
def test_integers_are_bit_equal(pool: RankPool, dtype: torch.dtype, split: Split) -> None:
    pool.run(integers, dtype, split, world_size=2)


class Words(torch.nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(ROWS, 6, padding_idx=0, dtype=torch.float64)
        self.positions = torch.nn.Embedding(3, 6, dtype=torch.float64)
        self.head = torch.nn.Linear(6, ROWS, bias=False, dtype=torch.float64)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.head(self.table(ids) + self.positions(torch.arange(3)))
        return rows


def under_ddp(context: Context, split: Split | None) -> dict[str, Any]:
    torch.manual_seed(2)
    model = Words()
    if split is not None:
        assert merak.embedding.shard(model, sparse=False, split=split) == ["table", "positions"]
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01)
    for step in range(6):
        ids = torch.randint(0, ROWS, (4, 3), generator=torch.Generator().manual_seed(10 * step + context.rank))
        optimizer.zero_grad()
        ddp(ids).logsumexp(-1).square().mean().backward()
        optimizer.step()
    state = model.state_dict()
    return {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in state.items()}


@pytest.mark.parametrize("split", SPLITS)
def test_a_model_under_ddp_trains_the_same(pool: RankPool, split: Split) -> None:
    for ours, theirs in zip(*(pool.run(under_ddp, way, world_size=3) for way in (split, None)), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-9)


class WordsOfRanks(Words):
    """With a table of ours from the start."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = merak.embedding.ShardedEmbedding(ROWS, 6, padding_idx=0, dtype=torch.float64)  # type: ignore
        self.positions = merak.embedding.ShardedEmbedding(3, 6, dtype=torch.float64)  # type: ignore


def of_our_modules(_: Context) -> None:
    model = WordsOfRanks()
    before = model.table.weight.detach().clone()
    assert merak.embedding.shard(model) == []
    ddp = DistributedDataParallel(model)
    assert torch.equal(model.table.weight, before)  # not rank 0's part
    for _ in range(2):
        ddp(torch.ones(4, 3, dtype=torch.int64)).sum().backward()


def test_a_model_of_our_modules_under_ddp(pool: RankPool) -> None:
    pool.run(of_our_modules, world_size=3)


def tied_to_each_other(_: Context) -> None:
    def model() -> torch.nn.ModuleDict:
        names = ("first", "second", "another")
        made = torch.nn.ModuleDict({name: torch.nn.Embedding(ROWS, 6, padding_idx=1) for name in names})
        made["second"].weight = made["first"].weight
        made["itself"] = made["first"]
        return made

    tied = model()
    assert merak.embedding.shard(tied, split="rows", hot={"first": torch.tensor([2])}) == ["first", "another"]
    assert tied["second"] is tied["itself"] is tied["first"] is not tied["another"]
    with pytest.raises(ValueError, match=r"hot rows are named of \['second'\].*\['first', 'another'\]"):
        merak.embedding.shard(model(), split="rows", hot={"second": torch.tensor([2])})
    with pytest.raises(ValueError, match=r"first\.weight is also second\.weight"):
        merak.embedding.shard(model(), only=lambda name, module: name != "second")
    otherwise = model()
    otherwise["second"].padding_idx = 2  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"first and second have the same table, but are .*padding_idx=2"):
        merak.embedding.shard(otherwise)
    assert type(otherwise["first"]) is torch.nn.Embedding


def test_tables_that_are_tied_to_each_other_are_one(pool: RankPool) -> None:
    pool.run(tied_to_each_other, world_size=2)


def checkpoints(_: Context, split: Split, into: Split) -> None:
    """A state loads into itself, into a plain embedding, from one, and into a table that is split the other way."""
    torch.manual_seed(3)
    table = merak.embedding.ShardedEmbedding(ROWS, 7, padding_idx=-1, split=split)
    state = table.state_dict()
    assert isinstance(state["weight"], DTensor)
    assert state["weight"].placements == (Shard(0 if split == "rows" else 1),)
    assert state["weight"].shape == (ROWS, 7)
    assert table.padding_idx == ROWS - 1
    plain = torch.nn.Embedding(ROWS, 7)
    plain.load_state_dict({"weight": state["weight"].full_tensor()})
    before = table.weight.detach().clone()
    torch.nn.init.zeros_(table.weight)
    table.load_state_dict(plain.state_dict())
    assert torch.equal(table.weight, before)
    other = merak.embedding.ShardedEmbedding(ROWS, 7, split=into)
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.whole_table().full_tensor(), plain.weight)
    torch.manual_seed(3)
    assert torch.equal(torch.nn.Embedding(ROWS, 7, padding_idx=-1).weight, state["weight"].full_tensor())
    for shape in ((ROWS + 1, 7), tuple(other.weight.shape)):  # this rank's part, too, which is none of another's
        if shape != (ROWS, 7):
            with pytest.raises(RuntimeError, match=rf"size mismatch for weight: .* the whole table \({ROWS}, 7\)"):
                other.load_state_dict({"weight": torch.zeros(shape)})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("into", SPLITS)
def test_states_are_those_of_plain_embeddings(pool: RankPool, split: Split, into: Split) -> None:
    pool.run(checkpoints, split, into, world_size=3)


def shapes(context: Context) -> None:
    table = merak.embedding.ShardedEmbedding(ROWS, 4)
    whole = table.whole_table().full_tensor()
    for ids in (
        torch.tensor(5),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.randint(0, ROWS, (2, 3, 4)),
        torch.randint(0, ROWS, (6, 5)).t(),
        torch.randint(0, ROWS, (9,), dtype=torch.int32),
    ):
        mine = (ids + context.rank) % ROWS
        with torch.no_grad():
            assert torch.equal(table(mine), whole[mine.long()])
    half = torch.nn.Sequential(table, torch.nn.Linear(4, 1))
    half(torch.zeros(0, dtype=torch.int64) if context.rank else torch.tensor([1, 1, 2])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.indices().tolist() == [[1, 2]]


def test_ids_of_any_shape(pool: RankPool) -> None:
    pool.run(shapes, world_size=2)


def accumulated(context: Context) -> None:
    """Two lookups in one pass, and two passes, add up; autograd.grad says that it has nothing."""
    table = merak.embedding.ShardedEmbedding(ROWS, 4)
    ids = torch.tensor([1, 2 + context.rank])
    (table(ids).sum() + 2 * table(ids[:1]).sum()).backward()
    table(ids).sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    assert gradient.to_dense()[:5, 0].tolist() == [0, 4, 1, 1, 0]
    with pytest.raises(RuntimeError, match="to not have been used in the graph"):
        torch.autograd.grad(table(ids).sum(), table.weight)


def test_gradients_add_up(pool: RankPool) -> None:
    pool.run(accumulated)


def outside(context: Context, wrong: int) -> str:
    table = merak.embedding.ShardedEmbedding(ROWS, 4)
    with pytest.raises(dist.DistBackendError) as caught:
        table(torch.tensor([1, wrong if context.rank == 1 else 2]))
    return str(caught.value)


@pytest.mark.parametrize("wrong", [-1, ROWS, 2**40])
def test_an_id_outside_the_table_is_told_to_all(pool: RankPool, wrong: int) -> None:
    for text in pool.run(outside, wrong, world_size=3):
        assert f"rank 1 cannot take part: id {wrong}, at position 1, is outside an embedding of {ROWS} rows" in text


def disagreeing(context: Context, rows: int, split: Split) -> str:
    ours = (rows, split) if context.rank == 1 else (ROWS, "columns")
    table = merak.embedding.ShardedEmbedding(ours[0], 4, split=ours[1])
    with pytest.raises(dist.DistBackendError) as caught:
        table(torch.tensor([1]))
    return str(caught.value)


def test_tables_that_differ_are_refused(pool: RankPool) -> None:
    for text in pool.run(disagreeing, 41, "columns"):
        assert "40 rows of 4 elements" in text
        assert "41 rows of 4 elements" in text
    for text in pool.run(disagreeing, 40, "rows"):
        assert "split another way" in text


def in_another_order(context: Context) -> str:
    """Tables of one shape: only their numbers tell them apart."""
    tables = [merak.embedding.ShardedEmbedding(ROWS, 4) for _ in range(2)]
    if context.rank == 1:
        tables.reverse()
    with pytest.raises(dist.DistBackendError) as caught:
        tables[0](torch.tensor([1]))
    return str(caught.value)


def test_tables_in_another_order_are_refused(pool: RankPool) -> None:
    for text in pool.run(in_another_order):
        assert "table 0" in text
        assert "table 1" in text


def refusals(_: Context) -> None:
    with pytest.raises(ValueError, match="max_norm is not taken"):
        merak.embedding.ShardedEmbedding(4, 4, max_norm=1.0)
    with pytest.raises(ValueError, match="2147483647 rows at most"):
        merak.embedding.ShardedEmbedding(2**31, 1, device="meta")
    with pytest.raises(ValueError, match="scale_grad_by_freq is not taken"):
        merak.embedding.ShardedEmbedding(4, 4, scale_grad_by_freq=True)
    with pytest.raises(ValueError, match="padding_idx is 4"):
        merak.embedding.ShardedEmbedding(4, 4, padding_idx=4)
    with pytest.raises(ValueError, match="split is 'row'; a table is split by 'columns' or by 'rows'"):
        merak.embedding.ShardedEmbedding(4, 4, split="row")  # type: ignore[arg-type]
    table = merak.embedding.ShardedEmbedding(4, 4)
    with pytest.raises(ValueError, match="ids have to be integers"):
        table(torch.ones(3))
    with pytest.raises(ValueError, match="ids are of type list; pass a tensor"):
        table([1, 2])
    model = Words(tied=True)
    with pytest.raises(ValueError, match=r"table\.weight is also head\.weight: the two are tied"):
        merak.embedding.shard(model)
    assert type(model.table) is torch.nn.Embedding
    assert merak.embedding.shard(model, only=lambda name, module: name != "table") == ["positions"]
    with pytest.raises(ValueError, match=r"no torch\.nn\.Embedding"):
        merak.embedding.shard(torch.nn.Linear(2, 2))
    for itself in (torch.nn.Embedding(4, 4), torch.nn.EmbeddingBag(4, 4)):
        with pytest.raises(ValueError, match="the model is itself an embedding"):
            merak.embedding.shard(itself)
        assert not list(itself.children())


def test_what_does_not_work_is_refused(pool: RankPool) -> None:
    pool.run(refusals)


def test_without_a_group_it_says_so() -> None:
    with pytest.raises(ValueError, match="there is no process group"):
        merak.embedding.ShardedEmbedding(4, 4)


def killed(context: Context) -> None:
    table = merak.embedding.ShardedEmbedding(ROWS, 4)
    table(torch.tensor([1]))
    if context.rank == 1:
        raise KeyError("an error of this rank alone")
    table(torch.tensor([1]))


def test_a_rank_that_fails_fails_the_others(pool: RankPool) -> None:
    with pytest.raises(RankError, match="an error of this rank alone"):
        pool.run(killed, world_size=3)
