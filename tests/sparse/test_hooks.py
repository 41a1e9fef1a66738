"""DistributedDataParallel with sparse gradients, over merak's hook and without it, against Gloo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import merak.sparse
from tests.backend.harness import Context, RankPool
from tests.sparse.resuming import save_and_load

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


def half_layer(_: Context, hook: str) -> float:
    ddp = DistributedDataParallel(torch.nn.Linear(4, 4, bias=False, dtype=torch.float16))
    states = {"exact_hook": merak.sparse.HookState(), "topk_hook": merak.sparse.TopKState(ratio=1.0)}
    ddp.register_comm_hook(states[hook], getattr(merak.sparse, hook))
    (ddp(torch.ones(1, 4, dtype=torch.float16)).float().sum() * 40_000).backward()
    gradient = ddp.module.weight.grad
    assert gradient is not None
    return gradient.abs().max().item()


@pytest.mark.parametrize("hook", ["exact_hook", "topk_hook"])
def test_averages_of_large_dense_halves_do_not_overflow(pool: RankPool, hook: str) -> None:
    assert pool.run(half_layer, hook, world_size=3)[0] == pytest.approx(40_000, rel=1e-3)


def wrong_states(_: Context) -> None:
    for state, hook in ((None, merak.sparse.exact_hook), (merak.sparse.HookState(), merak.sparse.topk_hook)):
        ddp = DistributedDataParallel(torch.nn.Linear(2, 2))
        ddp.register_comm_hook(state, hook)
        with pytest.raises((TypeError, RuntimeError), match="as its state"):
            ddp(torch.ones(1, 2)).sum().backward()


def test_states_of_other_hooks_are_refused(pool: RankPool) -> None:
    pool.run(wrong_states, world_size=1)


def test_methods_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="sketch_hook"):
        merak.sparse.HookState(method="sketch")


class Regression(torch.nn.Module):
    """A convex problem in three buckets' worth of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(40, 10)
        self.second = torch.nn.Linear(40, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x.flip(1))  # type: ignore[no-any-return]


def regression(context: Context, state: merak.sparse.TopKState | None, steps: int, save_at: int = -1) -> Any:
    torch.manual_seed(0)
    model = Regression().double()
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.002)
    if state is not None:
        ddp.register_comm_hook(state, merak.sparse.topk_hook)
    truth = torch.randn(40, 10, dtype=torch.float64)
    random = torch.Generator().manual_seed(context.rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        x = torch.randn(16, 40, generator=random, dtype=torch.float64)
        optimizer.zero_grad()
        loss = (ddp(x) - x @ truth).pow(2).mean()
        loss.backward()
        optimizer.step()
        if step == save_at and state is not None:
            save_and_load(state)
    return loss.item(), [parameter.detach().flatten().tolist() for parameter in model.parameters()]


def test_top_k_with_error_feedback_reaches_the_dense_loss(pool: RankPool) -> None:
    sparse = pool.run(regression, merak.sparse.TopKState(ratio=0.05), 1500, world_size=2)
    dense = pool.run(regression, None, 1500, world_size=2)
    assert sparse[0][1] == sparse[1][1]
    assert dense[0][0] < 1e-3
    assert sparse[0][0] < 1e-3


def test_top_k_of_everything_is_exact(pool: RankPool) -> None:
    sparse = pool.run(regression, merak.sparse.TopKState(ratio=1.0), 20, world_size=2)
    dense = pool.run(regression, None, 20, world_size=2)
    for mine, other in zip(sparse[0][1], dense[0][1], strict=True):
        assert mine == pytest.approx(other, rel=1e-12, abs=1e-12)


def test_top_k_goes_on_from_its_saved_state(pool: RankPool) -> None:
    through = pool.run(regression, merak.sparse.TopKState(ratio=0.1), 12, world_size=2)
    resumed = pool.run(regression, merak.sparse.TopKState(ratio=0.1), 12, 6, world_size=2)
    assert through[0][1] == resumed[0][1]


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5])
def test_ratios_that_make_no_sense_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        merak.sparse.TopKState(ratio=ratio)
