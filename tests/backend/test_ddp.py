"""DistributedDataParallel on the backend: the numbers of Gloo, for every feature that talks to the backend.

With two ranks every sum has two terms, so the results must be Gloo's bit for bit; with four they must be close.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from tests.backend import models
from tests.backend.conftest import BACKEND
from tests.backend.harness import Context, RankError

SameAsGloo = Callable[..., list[Any]]
Trained = tuple[list[float], dict[str, torch.Tensor]]

BUCKETS_OF_2_KIB = {"bucket_cap_mb": 2 / 1024}  # several buckets in flight, even in a small model

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "many buckets": BUCKETS_OF_2_KIB,
    "gradients as views": {"gradient_as_bucket_view": True, **BUCKETS_OF_2_KIB},
    "static graph": {"static_graph": True, **BUCKETS_OF_2_KIB},
    "no buffer broadcast": {"broadcast_buffers": False},
    "unused parameters": {"find_unused_parameters": True},
}


def step(ddp: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(ddp(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(
    context: Context, options: dict[str, Any], hook: str | None = None, optimizer: str = "sgd", steps: int = 4
) -> Trained:
    ddp = DistributedDataParallel(models.Perceptron(), **options)
    if hook is not None:
        register(ddp, hook)
    chosen = make_optimizer(optimizer, ddp)
    losses = [step(ddp, chosen, x, y) for x, y in models.batches(context.rank, steps)]
    return losses, models.state(ddp)


def register(ddp: DistributedDataParallel, hook: str) -> None:
    if hook == "powerSGD":
        # Each of its futures starts the next all-reduce from the callback of the one before.
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=2, start_powerSGD_iter=2, use_error_feedback=True
        )
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    else:
        ddp.register_comm_hook(None, getattr(default_hooks, hook))


def make_optimizer(kind: str, ddp: nn.Module) -> torch.optim.Optimizer:
    if kind == "zero":
        return ZeroRedundancyOptimizer(ddp.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    return torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_training_equals_gloo(same_as_gloo: SameAsGloo, options: dict[str, Any], world_size: int) -> None:
    same_as_gloo(train, options, world_size=world_size, exact=world_size == 2)


@pytest.mark.parametrize("hook", ["allreduce_hook", "fp16_compress_hook", "bf16_compress_hook"])
def test_communication_hooks_equal_gloo(same_as_gloo: SameAsGloo, hook: str) -> None:
    same_as_gloo(train, BUCKETS_OF_2_KIB, hook, steps=6, exact=True)


def test_power_sgd_equals_gloo(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(train, {}, "powerSGD", steps=6, exact=True)


def test_power_sgd_with_many_buckets_never_hangs(run: Callable[..., list[Trained]]) -> None:
    """Its callbacks start further collectives, one bucket's in a race with the next's, and so in an order that may
    differ between the ranks (Gloo then hangs, as it does when all of its two callback threads wait). Either the
    orders agree, or merak finds the difference and raises."""
    if BACKEND == "gloo":
        pytest.skip("Gloo hangs")
    try:
        first, second = run(train, BUCKETS_OF_2_KIB, "powerSGD", steps=6)
    except RankError as error:
        if "disagree about collective" not in str(error):
            raise
    else:
        # Not the running statistics, which are of each rank's own last batch.
        one, other = (
            {name: value for name, value in state.items() if "running_" not in name} for _, state in (first, second)
        )
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("world_size", [2, 3])
def test_zero_redundancy_optimizer_equals_gloo(same_as_gloo: SameAsGloo, world_size: int) -> None:
    same_as_gloo(train, {}, optimizer="zero", world_size=world_size, exact=world_size == 2)


def train_accumulating(context: Context) -> Trained:
    ddp = DistributedDataParallel(models.Perceptron(), **BUCKETS_OF_2_KIB)
    optimizer = make_optimizer("sgd", ddp)
    losses = []
    for index, (x, y) in enumerate(models.batches(context.rank, 6)):
        last = index % 3 == 2
        with contextlib.nullcontext() if last else ddp.no_sync():
            loss = nn.functional.mse_loss(ddp(x), y) / 3
            loss.backward()
        losses.append(loss.item())
        if last:
            optimizer.step()
            optimizer.zero_grad()
    return losses, models.state(ddp)


def test_gradient_accumulation_equals_gloo(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(train_accumulating, exact=True)


def train_forked(context: Context) -> Trained:
    ddp = DistributedDataParallel(models.Forked(), find_unused_parameters=True)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    losses = []
    for index, (x, y) in enumerate(models.batches(context.rank, 4)):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(ddp(x, branch=(index + context.rank) % 2), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, models.state(ddp)


def test_branches_that_differ_between_ranks_equal_gloo(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(train_forked, exact=True)


def train_joined(context: Context, use_zero: bool) -> Trained:
    model = nn.Sequential(nn.Linear(13, 7), nn.Tanh(), nn.Linear(7, 3))
    ddp = DistributedDataParallel(model, **BUCKETS_OF_2_KIB)
    optimizer = make_optimizer("zero" if use_zero else "sgd", ddp)
    joinables: list[Any] = [ddp, optimizer] if use_zero else [ddp]
    with Join(joinables):
        losses = [step(ddp, optimizer, x, y) for x, y in models.batches(context.rank, 3 + 2 * context.rank)]
    return losses, models.state(ddp)


@pytest.mark.parametrize("use_zero", [False, True], ids=["DDP", "DDP and ZeRO"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_join_of_ranks_with_uneven_batches_equals_gloo(
    same_as_gloo: SameAsGloo, world_size: int, use_zero: bool
) -> None:
    same_as_gloo(train_joined, use_zero, world_size=world_size, exact=world_size == 2)


def all_ranks_agree(context: Context) -> bool:
    ddp = DistributedDataParallel(models.Perceptron(), broadcast_buffers=True)
    optimizer = make_optimizer("sgd", ddp)
    for x, y in models.batches(context.rank, 3):
        step(ddp, optimizer, x, y)
    mine = torch.cat([p.detach().flatten() for p in ddp.parameters()])
    everyone = [torch.empty_like(mine) for _ in range(context.world_size)]
    dist.all_gather(everyone, mine)
    return all(torch.equal(mine, other) for other in everyone)


def test_parameters_stay_the_same_bits_on_every_rank(run: Callable[..., list[bool]]) -> None:
    assert all(run(all_ranks_agree, world_size=4))


def refuses_models_that_differ(context: Context) -> str:
    model = nn.Linear(3 + context.rank, 2)
    try:
        DistributedDataParallel(model)
    except RuntimeError as error:
        return str(error)
    return "accepted"


def test_a_model_that_differs_between_ranks_is_refused(run: Callable[..., list[str]]) -> None:
    # Rank 0's shapes are the standard, so it is the other ranks that see the difference.
    assert "appears not to match" in run(refuses_models_that_differ)[1]
