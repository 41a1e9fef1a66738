"""Tables with hot rows beside torch.nn.Embedding: one process with the global batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import merak.embedding
from merak.embedding import LookAhead, ShardedEmbedding, ShardedEmbeddingBag
from tests.backend.harness import Context, RankPool

from .test_sharded_embedding import OPTIMIZERS, ROWS, in_one_process, loss_of, tokens, training

HOT = [3, 0, 1, 39, 17]  # the padding row among them


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("size", "rows"), [(1, 40), (2, 40), (3, 41), (4, 40), (4, 3), (4, 1)])
def test_training_is_that_of_one_process(pool: RankPool, size: int, rows: int, name: str) -> None:
    """Of small tables all rows are hot."""
    hot = [row for row in HOT if row < rows] if rows > 3 else list(range(rows))
    padding = 3 if size % 2 == 0 and rows > 3 else None
    expected = in_one_process(size, 5, name, padding, rows=rows)
    for whole in pool.run(training, 5, name, padding, rows=rows, split="rows", hot=hot, world_size=size):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_of_several_passes_add_up(pool: RankPool, name: str) -> None:
    expected = in_one_process(3, 7, name, None, passes=2)
    for whole in pool.run(training, 7, name, None, passes=2, split="rows", hot=HOT, world_size=3):
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-9)


def copies(context: Context, dtype: torch.dtype, name: str) -> torch.Tensor:
    """After some steps; seeds differ, so that only the owner of a row knows what it begins with."""
    torch.manual_seed(context.rank)
    table = ShardedEmbedding(ROWS, 6, dtype=dtype, split="rows", hot=torch.tensor(HOT))
    optimizer = OPTIMIZERS[name](table.parameters())
    for step in range(5):
        ids = tokens(step, context.rank)
        optimizer.zero_grad()
        loss_of(table(ids).double(), ids).backward()
        optimizer.step()
    assert torch.equal(table.whole_table().full_tensor()[sorted(HOT)], table.weight[-len(HOT) :])
    return table.weight.detach()[-len(HOT) :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Adagrad of rows", "row-wise Adagrad", "AdamW of rows"])
def test_copies_have_the_same_bits_on_all_ranks(pool: RankPool, dtype: torch.dtype, name: str) -> None:
    first, *others = pool.run(copies, dtype, name, world_size=4)
    for other in others:
        assert torch.equal(other, first)


def states(_: Context) -> None:
    torch.manual_seed(3)
    table = ShardedEmbedding(ROWS, 7, padding_idx=1, split="rows", hot=torch.tensor(HOT))
    torch.manual_seed(3)
    plain = torch.nn.Embedding(ROWS, 7, padding_idx=1)
    assert torch.equal(table.state_dict()["weight"].full_tensor(), plain.weight)
    other = ShardedEmbedding(ROWS, 7, split="rows", hot=torch.tensor([5, 6]))
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.whole_table().full_tensor(), plain.weight)
    assert torch.equal(other(torch.tensor([[5, 4], [39, 6]])), plain(torch.tensor([[5, 4], [39, 6]])))
    made = ShardedEmbedding.from_embedding(plain, split="rows", hot=torch.tensor([5, 6]))
    assert torch.equal(made(torch.tensor([6, 7])), plain(torch.tensor([6, 7])))
    with torch.no_grad():
        table.weight[-len(HOT) :] = 2.0
    assert (table.whole_table().full_tensor()[HOT] == 2).all()  # the copies count


def test_states_are_those_of_plain_embeddings(pool: RankPool) -> None:
    pool.run(states, world_size=3)


def bags(context: Context) -> None:
    bag = torch.nn.EmbeddingBag(ROWS, 6, mode="sum", padding_idx=0)
    dist.broadcast(bag.weight.detach(), 0)
    ours = ShardedEmbeddingBag.from_bag(bag, split="rows", hot=torch.tensor(HOT))
    ids = torch.tensor([[context.rank, 0, 39], [20, 3, 3]])
    for module in (ours, bag):
        module(ids).sin().sum().backward()
    torch.testing.assert_close(ours(ids), bag(ids))
    assert ours.weight.grad is not None
    assert bag.weight.grad is not None
    dist.all_reduce(bag.weight.grad, dist.ReduceOp.AVG)
    torch.testing.assert_close(ours.weight.grad.to_dense(), ours.part_of(bag.weight.grad) * _counts(ours))


def _counts(table: ShardedEmbedding) -> torch.Tensor:
    """0 for a rank's own rows that are hot, whose gradient is in that of their copies; 1 for all others."""
    whole = torch.ones(ROWS, 1)
    whole[HOT] = 0
    own = table.part_of(whole.expand(ROWS, 6))[: -len(HOT)]
    return torch.cat([own, torch.ones(len(HOT), 6)])


def test_bags(pool: RankPool) -> None:
    pool.run(bags, world_size=3)


def outside(context: Context) -> str:
    table = ShardedEmbedding(ROWS, 4, split="rows", hot=torch.tensor([1]))
    with pytest.raises(dist.DistBackendError) as caught:
        table(torch.tensor([1, 1, -2 if context.rank == 1 else 2]))
    return str(caught.value)


def test_an_id_outside_the_table_is_told_to_all(pool: RankPool) -> None:
    for text in pool.run(outside, world_size=3):
        assert f"rank 1 cannot take part: id -2, at position 2, is outside an embedding of {ROWS} rows" in text


def refusals(context: Context) -> None:
    with pytest.raises(ValueError, match='hot rows are for split="rows"'):
        ShardedEmbedding(ROWS, 4, hot=torch.tensor([1]))
    for wrong in ([-1, 2], [ROWS]):
        with pytest.raises(ValueError, match="hot rows are from 0 to below 40"):
            ShardedEmbedding(ROWS, 4, split="rows", hot=torch.tensor(wrong))
    for differing in ([context.rank], [0, *range(2, 2 + context.rank)]):
        with pytest.raises(ValueError, match="ranks name other hot rows"):
            ShardedEmbedding(ROWS, 4, split="rows", hot=torch.tensor(differing))
    table = ShardedEmbedding(ROWS, 4, split="rows", hot=torch.tensor([1]))
    with pytest.raises(ValueError, match="cannot be in a look-ahead"):
        next(iter(LookAhead([torch.tensor([1])], lambda ids: {table: ids})))
    model = torch.nn.Sequential(torch.nn.Embedding(ROWS, 4))
    with pytest.raises(ValueError, match=r"hot rows are named of \['1'\]"):
        merak.embedding.shard(model, split="rows", hot={"1": torch.tensor([1])})


def test_what_does_not_work_is_refused(pool: RankPool) -> None:
    pool.run(refusals)
