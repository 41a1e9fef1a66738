"""torch.distributed.checkpoint of models with tables: saved by four ranks, trained on by other numbers of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

import merak.embedding
from tests.backend.harness import Context, RankPool

ROWS, COLUMNS, BATCH = 30, 9, 12  # of four ranks the last has no columns


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

    def __init__(self, context: Context, name: str, seed: int, sharded: bool = True) -> None:
        torch.manual_seed(seed)
        model = Words()
        if sharded:
            merak.embedding.shard(model)
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


def uninterrupted(context: Context, folder: Path, name: str) -> list[float]:
    training = Training(context, name, seed=1)
    training.losses(range(5))
    training.save(folder)
    return training.losses(range(5, 10))


def resumed(context: Context, folder: Path, name: str, sharded: bool) -> list[float]:
    training = Training(context, name, seed=2, sharded=sharded)
    training.load(folder)
    return training.losses(range(5, 10))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_with_any_number_of_ranks(pool: RankPool, tmp_path: Path, name: str) -> None:
    expected = pool.run(uninterrupted, tmp_path, name, world_size=4)[0]
    for size in (4, 3, 2, 1):
        for losses in pool.run(resumed, tmp_path, name, True, world_size=size):
            assert losses == pytest.approx(expected, abs=1e-9, rel=0), f"{size} ranks"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_with_a_plain_embedding(pool: RankPool, tmp_path: Path, name: str) -> None:
    expected = pool.run(uninterrupted, tmp_path, name, world_size=4)[0]
    (losses,) = pool.run(resumed, tmp_path, name, False, world_size=1)
    assert losses == pytest.approx(expected, abs=1e-9, rel=0)


def other_forms(context: Context) -> None:
    """State dicts themselves: of a plain table, whole, and of tables of 16 bits, whose state is not rounded."""
    table = merak.embedding.ShardedEmbedding(ROWS, COLUMNS, dtype=torch.bfloat16)
    optimizer = merak.embedding.AdamW(table.parameters())
    plain = torch.nn.Embedding(ROWS, COLUMNS, sparse=True, dtype=torch.bfloat16)
    whole = merak.embedding.AdamW(plain.parameters())
    plain(torch.tensor([1, 2])).sin().sum().backward()
    whole.step()
    optimizer.load_state_dict(whole.state_dict())
    for name in ("exp_avg", "exp_avg_sq"):
        expected = whole.state[plain.weight][name]
        assert torch.equal(optimizer.state[table.weight][name], table.columns_of(expected))
        assert torch.equal(optimizer.state_dict()["state"][0][name].full_tensor(), expected)
    assert optimizer.state[table.weight]["step"] == 1


def test_states_are_those_of_plain_embeddings(pool: RankPool) -> None:
    pool.run(other_forms, world_size=4)
