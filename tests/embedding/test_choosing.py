"""How tables are split by `auto`: prices beside those of batches that are counted one by one."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

import merak.embedding
from merak.embedding.choosing import BANDWIDTH, HOT_SECONDS, SECONDS_PER_SLICE, Choice, Frequencies, choose
from merak.embedding.module import Split
from tests.backend.harness import Context, RankPool


def zipf(rows: int, always: int) -> Frequencies:
    """Sorted by frequency, so many rows in every batch."""
    reads = (100_000 * always / torch.arange(1, rows + 1)).clamp(max=100_000)
    return Frequencies(reads.long(), 100_000)


def busiest(rows_read: list[int], rows: int, columns: int, ranks: int, split: Split, hot: set[int]) -> tuple[int, int]:
    """Elements and slices of a step in which every rank reads the same rows, counted message by message."""
    most = -(-(columns if split == "columns" else rows) // ranks)
    sent: Counter[int] = Counter()
    received: Counter[int] = Counter()
    slices: Counter[int] = Counter()
    for reader in range(ranks):
        for row in set(rows_read) - hot:
            for owner in range(ranks):
                width = max(0, min(columns, (owner + 1) * most) - owner * most)
                if split == "rows":
                    width = columns if row // most == owner else 0
                if width == 0:
                    continue
                slices[owner] += 2  # made for the lookup, and added up of the gradient
                slices[reader] += 2
                if owner != reader:
                    sent[owner] += width
                    received[reader] += width
    elements = 2 * max([*sent.values(), *received.values(), 0])
    return elements, max(slices.values(), default=0)


@pytest.mark.parametrize("seed", range(60))
def test_prices_are_those_of_batches_that_are_counted(seed: int) -> None:
    """Rows are read by all ranks in every batch, or by none."""
    draw = random.Random(seed)
    ranks, rows = draw.randint(1, 5), draw.randint(1, 40)
    columns = ranks * draw.randint(1, 6)
    rows_read = [row for row in range(rows) if draw.random() < 0.5]
    reads = torch.zeros(rows, dtype=torch.int64)
    reads[rows_read] = 7
    for price in choose(Frequencies(reads, 7), columns, ranks).prices:
        hot = set(rows_read[: price.hot_rows])
        elements, slices = busiest(rows_read, rows, columns, ranks, price.split, hot)
        reduced = 2 * len(hot)
        assert price.bytes == pytest.approx(4 * (elements + reduced * columns * (ranks - 1) / ranks))
        assert price.slices == slices + 2 * reduced
        fixed = HOT_SECONDS if hot else 0
        assert price.seconds == pytest.approx(price.bytes / BANDWIDTH + price.slices * SECONDS_PER_SLICE + fixed)


def test_columns_that_no_rank_has_cost_nothing_and_are_waited_for() -> None:
    """Of 9 columns on 4 ranks three have 3: the busiest sends 9 of each row, and the last receives 9."""
    (price,) = [p for p in choose(Frequencies(torch.tensor([1, 0]), 1), 9, 4).prices if p.split == "columns"]
    assert price.bytes == 2 * 9 * 4


def test_what_is_chosen() -> None:
    uniform = Frequencies(torch.full((100_000,), 80), 1000)
    assert choose(uniform, 16, 4).split == "rows"
    assert choose(uniform, 16, 4).hot is None
    assert choose(uniform, 16, 1).split == "columns"  # which is the same
    skewed = zipf(100_000, 1000)
    assert choose(skewed, 512, 4).split == "columns"
    assert choose(skewed, 16, 4).split == "columns"
    fast = choose(skewed, 16, 4, bandwidth=3e9)
    assert (fast.split, fast.hot) == ("rows", None)


def test_hot_rows_are_those_that_are_read_most() -> None:
    counted = zipf(1_000_000, 5000)
    for reads in (counted.reads, counted.reads.flip(0)):
        choice = choose(Frequencies(reads, counted.batches), 8, 8)
        assert choice.split == "rows"
        assert choice.hot is not None
        cold = reads.index_fill(0, choice.hot, 0)
        assert reads[choice.hot].min() >= cold.max()
        assert choice.prices == tuple(sorted(choice.prices, key=lambda price: price.seconds))
        _, cheapest, *others = str(choice).splitlines()
        assert cheapest.startswith(f"rows, {len(choice.hot)} hot ")
        assert len(others) == 2
    shuffled = torch.randperm(len(counted.reads), generator=torch.Generator().manual_seed(1))
    balanced = choose(Frequencies(counted.reads[shuffled], counted.batches), 8, 8)
    assert (balanced.split, balanced.hot) == ("rows", None)  # all ranks have as much to do without copies


def test_reads_are_counted_once_a_batch() -> None:
    batches = [torch.tensor([[1, 1], [2, 4]]), torch.tensor([4], dtype=torch.int32), torch.zeros(0, dtype=torch.int64)]
    counted = merak.embedding.frequencies(batches, 5)
    assert (counted.reads.tolist(), counted.batches) == ([0, 1, 1, 0, 2], 3)
    for wrong in ([-1], [5]):
        with pytest.raises(ValueError, match="of an embedding of 5 rows"):
            merak.embedding.frequencies([torch.tensor(wrong)], 5)
    with pytest.raises(ValueError, match="no batch"):
        merak.embedding.frequencies([], 5)
    with pytest.raises(ValueError, match="bandwidth"):
        choose(counted, 4, 2, bandwidth=0)


def together(context: Context) -> Choice:
    """Each rank has read other rows, as often as the others."""
    rows = 4_000
    ids = torch.arange(context.rank, rows, context.world_size)
    counted = merak.embedding.frequencies([ids, ids[: 10 * context.rank]], rows)
    choice = merak.embedding.auto(counted, 4)
    merak.embedding.ShardedEmbedding(rows, 4, split=choice.split, hot=choice.hot)
    return choice


def test_all_ranks_choose_alike(pool: RankPool) -> None:
    first, *others = pool.run(together, world_size=3)
    assert first.split == "rows"
    for other in others:
        assert other.prices == first.prices
    reads = torch.ones(4_000, dtype=torch.int64)
    for rank in range(3):
        reads[torch.arange(rank, 4_000, 3)[: 10 * rank]] += 1
    assert first.prices == choose(Frequencies(reads, 6), 4, 3).prices
