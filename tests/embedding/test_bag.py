"""ShardedEmbeddingBag beside torch.nn.EmbeddingBag on the same rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

import merak.embedding
from merak.embedding.module import Split
from tests.backend.harness import Context, RankPool

ROWS, COLUMNS = 30, 7


def bags(rank: int, step: int, two_dimensions: bool, last_offset: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Empty bags among them, and ranks without any."""
    random = torch.Generator().manual_seed(10 * rank + step)
    if two_dimensions:
        return torch.randint(0, ROWS, (3 * (step % 3), 4), generator=random), None
    lengths = torch.randint(0, 5, (4 + step,), generator=random) * (rank != step % 3)
    ends = lengths.cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    return torch.randint(0, ROWS, (int(ends[-1]),), generator=random), offsets if last_offset else offsets[:-1]


def beside_torch(
    context: Context,
    split: Split,
    mode: Any,
    padding: int | None,
    two_dimensions: bool,
    last_offset: bool,
    weighted: bool,
) -> None:
    torch.manual_seed(0)
    ours = merak.embedding.ShardedEmbeddingBag(
        ROWS, COLUMNS, mode=mode, padding_idx=padding, include_last_offset=last_offset, dtype=torch.float64, split=split
    )
    theirs = torch.nn.EmbeddingBag(
        ROWS, COLUMNS, mode=mode, padding_idx=padding, include_last_offset=last_offset, dtype=torch.float64
    )
    theirs.weight.data = ours.whole_table().full_tensor()
    for step in range(5):
        ids, offsets = bags(context.rank, step, two_dimensions, last_offset)
        weights = torch.rand(ids.shape, dtype=torch.float64) if weighted else None
        found, expected = ours(ids, offsets, weights), theirs(ids, offsets, weights)
        torch.testing.assert_close(found, expected)
        found.sin().sum().backward()
        expected.sin().sum().backward()
        gradient = theirs.weight.grad
        assert gradient is not None
        dist.all_reduce(gradient, dist.ReduceOp.AVG)
        assert ours.weight.grad is not None
        torch.testing.assert_close(ours.weight.grad.to_dense(), ours.part_of(gradient))
        ours.weight.grad = theirs.weight.grad = None


@pytest.mark.parametrize(
    ("mode", "padding", "two_dimensions", "last_offset", "weighted"),
    [
        ("sum", None, True, False, False),
        ("sum", 3, False, False, True),
        ("mean", 3, False, True, False),
        ("mean", None, True, False, False),
        ("sum", 3, True, False, True),
    ],
)
@pytest.mark.parametrize("split", ["columns", "rows"])
def test_bags_are_those_of_torch(
    pool: RankPool,
    split: Split,
    mode: str,
    padding: int | None,
    two_dimensions: bool,
    last_offset: bool,
    weighted: bool,
) -> None:
    pool.run(beside_torch, split, mode, padding, two_dimensions, last_offset, weighted, world_size=3)


def replaced(_: Context, split: Split) -> None:
    bag = torch.nn.EmbeddingBag(ROWS, COLUMNS, mode="sum", padding_idx=2, include_last_offset=True)
    model = torch.nn.ModuleDict({"bag": bag, "table": torch.nn.Embedding(3, 2)})
    expected = bag.weight.detach().clone()
    assert merak.embedding.shard(model, split=split) == ["bag", "table"]
    made = model["bag"]
    assert isinstance(made, merak.embedding.ShardedEmbeddingBag)
    assert torch.equal(made.whole_table().full_tensor(), expected)
    assert (made.mode, made.padding_idx, made.include_last_offset) == ("sum", 2, True)
    assert made.by_rows == (split == "rows")


@pytest.mark.parametrize("split", ["columns", "rows"])
def test_bags_of_a_model_are_replaced(pool: RankPool, split: Split) -> None:
    pool.run(replaced, split)


def refusals(_: Context) -> None:
    with pytest.raises(ValueError, match="mode is 'max'"):
        merak.embedding.ShardedEmbeddingBag(4, 4, mode="max")
    bag = merak.embedding.ShardedEmbeddingBag(4, 4)
    with pytest.raises(ValueError, match="offsets are for ids of one dimension"):
        bag(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="ids have to be of two dimensions"):
        bag(torch.zeros(1, dtype=torch.int64))


def test_what_does_not_work_is_refused(pool: RankPool) -> None:
    pool.run(refusals)
