"""torch.distributed.checkpoint of models with tables: saved by four ranks, trained on by other numbers of ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import merak.embedding
from merak.embedding.module import Split
from tests.backend.harness import Context, RankPool

from .test_sharded_embedding import SPLITS

ROWS, COLUMNS, BATCH = 33, 9, 12  # of four ranks the last has no columns, or fewer rows


def adagrad_of_torch(parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adagrad(parameters, 0.1)
    merak.embedding.save_whole(optimizer)
    return optimizer


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters: merak.embedding.SGD(parameters, 0.1),
    "momentum": lambda parameters: merak.embedding.SGD(parameters, 0.1, 0.9),
    "Adagrad": lambda parameters: merak.embedding.Adagrad(parameters, 0.1, lr_decay=0.1),
    "row-wise Adagrad": lambda parameters: merak.embedding.RowWiseAdagrad(parameters, 0.1),
    "AdamW": lambda parameters: merak.embedding.AdamW(parameters, 0.1),
    "Adagrad of torch": adagrad_of_torch,
}


class Words(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(ROWS, COLUMNS, padding_idx=0, sparse=True, dtype=torch.float64)
        self.head = torch.nn.Linear(COLUMNS, ROWS, dtype=torch.float64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.head(self.table(ids))
        return rows


class Training:
    """A model and its optimizers, trained on the same global batches by any number of ranks."""

    def __init__(self, context: Context, name: str, seed: int, split: Split | None, hot: Sequence[int] = ()) -> None:
        torch.manual_seed(seed)
        model = Words()
        if split is not None:
            merak.embedding.shard(model, split=split, hot={"table": torch.tensor(hot, dtype=torch.int64)})
        self.rank, self.ranks = context.rank, context.world_size
        self.ddp = DistributedDataParallel(model)
        self.optimizers = [OPTIMIZERS[name]([model.table.weight]), torch.optim.AdamW(model.head.parameters(), 0.01)]

    def losses(self, steps: range) -> list[float]:
        return [self._step(step) for step in steps]

    def _step(self, step: int) -> float:
        ids = torch.randint(0, ROWS, (BATCH, 2), generator=torch.Generator().manual_seed(step))
        mine = ids.chunk(self.ranks)[self.rank]
        loss = torch.nn.functional.cross_entropy(self.ddp(mine[:, 0]), mine[:, 1])
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        whole = loss.detach()
        dist.all_reduce(whole, dist.ReduceOp.AVG)
        return whole.item()

    def save(self, folder: Path) -> None:
        weights, states = get_state_dict(self.ddp, self.optimizers)
        dcp.save({"model": weights, "optimizers": states}, checkpoint_id=folder)

    def load(self, folder: Path) -> None:
        weights, states = get_state_dict(self.ddp, self.optimizers)
        document: dict[str, Any] = {"model": weights, "optimizers": states}
        dcp.load(document, checkpoint_id=folder)
        set_state_dict(
            self.ddp, self.optimizers, model_state_dict=document["model"], optim_state_dict=document["optimizers"]
        )


def uninterrupted(context: Context, folder: Path, name: str, split: Split, hot: Sequence[int] = ()) -> list[float]:
    training = Training(context, name, 1, split, hot)
    training.losses(range(5))
    training.save(folder)
    return training.losses(range(5, 10))


def resumed(context: Context, folder: Path, name: str, split: Split | None, hot: Sequence[int] = ()) -> list[float]:
    """None: with a plain embedding."""
    training = Training(context, name, 2, split, hot)
    training.load(folder)
    return training.losses(range(5, 10))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_with_any_number_of_ranks(pool: RankPool, tmp_path: Path, name: str, split: Split) -> None:
    expected = pool.run(uninterrupted, tmp_path, name, split, world_size=4)[0]
    for into, size in itertools.product(SPLITS, (4, 3, 2, 1)):
        for losses in pool.run(resumed, tmp_path, name, into, world_size=size):
            assert losses == pytest.approx(expected, abs=1e-9, rel=0), f"{size} ranks, by {into}"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_with_a_plain_embedding(pool: RankPool, tmp_path: Path, name: str, split: Split) -> None:
    expected = pool.run(uninterrupted, tmp_path, name, split, world_size=4)[0]
    (losses,) = pool.run(resumed, tmp_path, name, None, world_size=1)
    assert losses == pytest.approx(expected, abs=1e-9, rel=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_with_other_hot_rows(pool: RankPool, tmp_path: Path, name: str) -> None:
    expected = pool.run(uninterrupted, tmp_path, name, "rows", (0, 1, 9, 32), world_size=4)[0]
    resumptions: list[tuple[Split | None, Sequence[int], int]] = [
        ("rows", (0, 1, 9, 32), 4),
        ("rows", (1, 5, 31), 3),
        ("rows", (), 2),
        ("columns", (), 3),
        ("rows", (3, 2), 1),
        (None, (), 1),
    ]
    for into, hot, size in resumptions:
        for losses in pool.run(resumed, tmp_path, name, into, hot, world_size=size):
            assert losses == pytest.approx(expected, abs=1e-9, rel=0), f"{size} ranks, by {into}, hot: {hot}"


def row_wise(_: Context, split: Split) -> None:
    """State dicts of numbers a row, from a table that is split one way, and a plain one, into one of the other."""
    ways = SPLITS if split == SPLITS[0] else SPLITS[::-1]
    table, other = (merak.embedding.ShardedEmbedding(ROWS, COLUMNS, split=one) for one in ways)
    plain = torch.nn.Embedding(ROWS, COLUMNS, sparse=True)
    table.load_state_dict(plain.state_dict())
    first, second, third = (merak.embedding.RowWiseAdagrad([one.weight], 0.1) for one in (table, other, plain))
    for module, optimizer in ((table, first), (plain, third)):
        module(torch.tensor([1, 2, 31])).sin().sum().backward()
        optimizer.step()
    expected = third.state_dict()["state"][0]["sum"]
    assert expected.count_nonzero() == 3
    for saved in (first, third):
        second.load_state_dict(saved.state_dict())
        found = second.state_dict()["state"][0]["sum"]
        torch.testing.assert_close(found.full_tensor() if isinstance(found, DTensor) else found, expected)


@pytest.mark.parametrize("split", SPLITS)
def test_numbers_a_row(pool: RankPool, split: Split) -> None:
    pool.run(row_wise, split, world_size=4)


def other_forms(_: Context, split: Split) -> None:
    """State dicts themselves: of a plain table, whole, and of tables of 16 bits, whose state is not rounded."""
    table = merak.embedding.ShardedEmbedding(ROWS, COLUMNS, dtype=torch.bfloat16, split=split)
    optimizer = merak.embedding.AdamW(table.parameters())
    plain = torch.nn.Embedding(ROWS, COLUMNS, sparse=True, dtype=torch.bfloat16)
    whole = merak.embedding.AdamW(plain.parameters())
    plain(torch.tensor([1, 2])).sin().sum().backward()
    whole.step()
    optimizer.load_state_dict(whole.state_dict())
    for name in ("exp_avg", "exp_avg_sq"):
        expected = whole.state[plain.weight][name]
        assert torch.equal(optimizer.state[table.weight][name], table.part_of(expected))
        assert torch.equal(optimizer.state_dict()["state"][0][name].full_tensor(), expected)
    assert optimizer.state[table.weight]["step"] == 1


@pytest.mark.parametrize("split", SPLITS)
def test_states_are_those_of_plain_embeddings(pool: RankPool, split: Split) -> None:
    pool.run(other_forms, split, world_size=4)
