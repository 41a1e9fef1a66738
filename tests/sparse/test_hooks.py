"""DistributedDataParallel with sparse gradients, over merak's hook and without it, against Gloo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import merak.sparse
from tests.backend.harness import Context, RankPool

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.5),
    "SparseAdam": lambda parameters: torch.optim.SparseAdam(parameters, lr=0.5),
}


class Model(torch.nn.Module):
    """Two tables, one of them looked up twice, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(50, 6, sparse=True)
        self.users = torch.nn.EmbeddingBag(9, 6, sparse=True, mode="sum")
        self.last = torch.nn.Linear(6, 3)

    def forward(self, words: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        return self.last(self.words(words).sum(1) + self.words(words.flip(0)).sum(1) + self.users(users))  # type: ignore[no-any-return]


def trained(context: Context, optimizer: str, hooked: bool, dtype: torch.dtype) -> list[list[float]]:
    torch.manual_seed(0)
    model = Model().to(dtype)
    ddp = DistributedDataParallel(model)
    if hooked:
        ddp.register_comm_hook(merak.sparse.HookState(), merak.sparse.exact_hook)
    tables = [*model.words.parameters(), *model.users.parameters()]
    optimizers = [OPTIMIZERS[optimizer](tables), torch.optim.SGD(model.last.parameters(), lr=0.1)]
    random = torch.Generator().manual_seed(context.rank)
    for _ in range(4):
        for one in optimizers:
            one.zero_grad()
        words = torch.randint(0, 50, (5, 4), generator=random)
        ddp(words, torch.randint(0, 9, (5, 2), generator=random)).pow(2).mean().backward()
        for one in optimizers:
            one.step()
    return [parameter.detach().double().flatten().tolist() for parameter in model.parameters()]


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_as_over_gloo(pool: RankPool, optimizer: str, hooked: bool) -> None:
    ours = pool.run(trained, optimizer, hooked, torch.float64, world_size=3, backend="merak")
    theirs = pool.run(trained, optimizer, False, torch.float64, world_size=3, backend="gloo")
    assert ours[0] == ours[1] == ours[2]
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert mine == pytest.approx(other, rel=1e-9, abs=1e-9)


def half_gradients(context: Context) -> Any:
    model = torch.nn.Embedding(4, 2, sparse=True, dtype=torch.float16)
    ddp = DistributedDataParallel(model)
    ddp.register_comm_hook(merak.sparse.HookState(), merak.sparse.exact_hook)
    (ddp(torch.tensor([1])).sum() * 60_000).backward()
    assert model.weight.grad is not None
    return model.weight.grad.to_dense().tolist()


def test_averages_of_large_halves_do_not_overflow(pool: RankPool) -> None:
    assert pool.run(half_gradients, world_size=3)[0] == [[0, 0], [60_000, 60_000], [0, 0], [0, 0]]
