"""Copies of models whose tables are split."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import merak.embedding
from merak.embedding import LookAhead, ShardedEmbedding, ShardedEmbeddingBag
from tests.backend.harness import Context, RankPool

ROWS = 20
HOT = torch.tensor([1, 7])


def table_of_kind(kind: str) -> ShardedEmbedding:
    if kind == "bag":
        return ShardedEmbeddingBag(ROWS, 5, mode="sum", dtype=torch.float64)
    hot = HOT if kind == "hot" else None
    return ShardedEmbedding(ROWS, 5, 3, dtype=torch.float64, split="columns" if kind == "columns" else "rows", hot=hot)


def trains_apart(context: Context, kind: str) -> None:
    table = table_of_kind(kind)
    made = copy.deepcopy(torch.nn.ModuleDict({"table": table, "again": table}))
    copied = made["table"]
    assert isinstance(copied, type(table))
    assert made["again"] is copied
    assert repr(copied) == repr(table)
    before = table.whole_table().full_tensor()
    assert torch.equal(copied.whole_table().full_tensor(), before)

    ids = torch.tensor([[1, 7, 7, context.rank]])
    copied(ids).sum().backward()
    assert table.weight.grad is None
    plain = torch.nn.Embedding.from_pretrained(before.clone(), freeze=False, padding_idx=table.padding_idx)
    for rank in range(context.world_size):
        (plain(torch.tensor([[1, 7, 7, rank]])).sum() / context.world_size).backward()
    theirs = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    norm = merak.embedding.clip_grad_norm_(copied.parameters(), 1.0)  # which knows the copy for a part of a table
    torch.testing.assert_close(norm, theirs)
    merak.embedding.SGD(copied.parameters(), lr=0.5).step()
    torch.optim.SGD(plain.parameters(), lr=0.5).step()
    torch.testing.assert_close(copied.whole_table().full_tensor(), plain.weight.detach(), rtol=0, atol=1e-12)
    assert torch.equal(table.whole_table().full_tensor(), before)


@pytest.mark.parametrize("kind", ["columns", "rows", "hot", "bag"])
def test_a_deep_copy_is_a_table_of_its_own(pool: RankPool, kind: str) -> None:
    pool.run(trains_apart, kind, world_size=3)


def inside_a_loop(context: Context) -> None:
    """A copy has all steps so far, and stands outside the loop."""
    table = table_of_kind("columns")
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.5)
    for step, ids in enumerate(LookAhead(list(torch.arange(15).view(5, 3)), lambda ids: {table: ids}, optimizer)):
        table(ids).sum().backward()
        optimizer.step()
        copied = copy.deepcopy(table)
        assert torch.equal(copied.weight, table.weight)
        rows = copied(torch.arange(ROWS))  # were it in the loop: ids that were not announced
        assert torch.equal(rows, table.whole_table().full_tensor()), step


def test_a_deep_copy_inside_a_loop(pool: RankPool) -> None:
    pool.run(inside_a_loop)


def is_not_pickled(_: Context) -> None:
    model = torch.nn.Sequential(table_of_kind("columns"))
    with pytest.raises(TypeError, match=r"one rank's part of a table.*save state_dict\(\)"):
        torch.save(model, io.BytesIO())
    with pytest.raises(TypeError, match=r"copy\.deepcopy works"):
        copy.copy(model[0])


def test_a_table_is_not_pickled(pool: RankPool) -> None:
    pool.run(is_not_pickled)
