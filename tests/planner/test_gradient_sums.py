"""What replicas agree on, and how much of it travels."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from merak.planner import Cluster, Plan, Prices, Workload, find_plan, predict
from merak.planner.gradient_sums import as_dense_bytes, rows_sent

VOCABULARY, HIDDEN, LENGTH = 50_000, 32, 16
CLUSTER = Cluster.uniform("CPU core", 4, 1, between="1Gbit/s")


class Bag(nn.Module):
    """A table, and little else."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, HIDDEN)
        self.inner = nn.Linear(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, VOCABULARY if tied else 4)
        if tied:
            self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.out(self.inner(self.words(ids)).relu()).square().mean()}


BATCH = {"ids": torch.zeros(8, LENGTH, dtype=torch.long)}


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices(Workload(Bag(), BATCH), CLUSTER)


def test_tables_are_those_that_only_embeddings_read(prices: Prices) -> None:
    (table,) = prices.workload.tables
    assert (table.name, table.rows, table.nbytes) == ("words.weight", VOCABULARY, 4 * VOCABULARY * HIDDEN)
    assert table.lookups.at(8) == 8 * LENGTH
    assert Workload(Bag(tied=True), BATCH).tables == []


@pytest.mark.parametrize("seed", range(20))
def test_sends_what_the_methods_of_the_room_send(seed: int) -> None:
    numbers = random.Random(seed)
    ranks, rows = numbers.randint(2, 16), numbers.randint(10, 100_000)
    touched = numbers.randint(1, rows)
    union = min(rows, ranks * touched)
    gather, packed = (ranks - 1) * touched, 2 * (ranks - 1) * union / ranks
    sent = rows_sent(ranks, touched, rows)
    assert sent == pytest.approx(min(gather, packed, touched + (ranks - 2) * union / ranks))
    assert 0 < sent <= 2 * (ranks - 1) * rows / ranks  # never more than the dense one


def test_a_dense_sum_is_never_beaten_by_rows_of_the_whole_table(prices: Prices) -> None:
    (table,) = prices.workload.tables
    assert as_dense_bytes(table, 1e9, 4) == table.nbytes
    few = as_dense_bytes(table, 8, 2)  # two ranks send each other their rows, and a bitmap or numbers
    assert few == 8 * LENGTH * (4 * HIDDEN + 4)


def test_sparse_sums_shorten_the_reduction_by_what_need_not_travel(prices: Prices) -> None:
    (table,) = prices.workload.tables
    dense, sparse = (predict(Plan(dp=4, data_parallel=way), prices, 64) for way in ("all-reduce", "sparse"))
    saved = table.nbytes - as_dense_bytes(table, 16, 4)
    per_byte = CLUSTER.linear_time("all_reduce", range(4)).seconds_per_byte
    assert dense.reduction_s[0] - sparse.reduction_s[0] == pytest.approx(saved * per_byte)
    assert sparse.memory_bytes == dense.memory_bytes


def test_a_search_chooses_sparse_sums_where_tables_are_large() -> None:
    found = find_plan(Bag(), BATCH, CLUSTER, rows=64, pp=1, tp=1)
    assert found.plan.data_parallel == "sparse"
    assert "sparse sums of tables" in found.explain()
    pinned = find_plan(Bag(), BATCH, CLUSTER, rows=64, pp=1, tp=1, data_parallel="zero1")
    assert pinned.plan.data_parallel == "zero1"
    assert pinned.best.step_s > found.best.step_s
