"""Steps taken block by block in the next forward pass, beside the same steps taken at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from merak.embedding import LayerwiseOptimizer
from tests.backend.harness import Context, RankPool


class Model(torch.nn.Module):
    """With parameters of its own, in a list, shared by two modules, and in a module that only some steps enter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(6))
        self.offsets = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(6))])
        self.attention = torch.nn.MultiheadAttention(6, 2, batch_first=True)
        self.layers = torch.nn.ModuleList([torch.nn.TransformerEncoderLayer(6, 2, 8, 0.0) for _ in range(3)])
        self.recurrent = torch.nn.LSTM(6, 6)
        self.sometimes = torch.nn.Linear(6, 6)
        self.first, self.tied = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.tied.weight = self.first.weight

    def forward(self, x: torch.Tensor, use_all: bool = True) -> torch.Tensor:
        x = self.attention(x, x, x)[0] * self.scale + self.offsets[0]
        for layer in self.layers:
            x = layer(x)
        x = self.recurrent(x)[0]
        if use_all:
            x = x + self.sometimes(x)
        loss: torch.Tensor = (self.tied(self.first(x)) ** 2).mean()
        return loss


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "groups": lambda parameters: torch.optim.AdamW(
        [{"params": list(parameters)[::2], "lr": 0.01}, {"params": list(parameters)[1::2]}], lr=0.02
    ),
}


def train(context: Context, layerwise: bool, name: str, how: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    model = Model()
    unused = how == "unused"
    ddp = DistributedDataParallel(
        model, gradient_as_bucket_view=True, bucket_cap_mb=0.001, find_unused_parameters=unused
    )
    inner = OPTIMIZERS[name](list(ddp.parameters()))
    schedule = torch.optim.lr_scheduler.ExponentialLR(inner, 0.9)
    optimizer = LayerwiseOptimizer(ddp, inner) if layerwise else inner
    losses = []
    for step in range(12):
        x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(10 * step + context.rank))
        loss = ddp(x, not unused or step % 3 == 0)
        loss.backward()
        losses.append(loss.item())
        if how == "accumulate" and step % 3 != 2:
            continue
        if how == "clip":
            if layerwise:
                optimizer.wait()
            torch.nn.utils.clip_grad_norm_(ddp.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step == 7:
            with torch.no_grad():
                losses.append(model(x).item())
    return losses, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("how", ["", "accumulate", "clip", "unused"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_are_those_of_the_optimizer(pool: RankPool, name: str, how: str) -> None:
    """Bit for bit: of two ranks an average is the same whether it is divided before, as DDP does it, or after."""
    for (losses, state), (expected, expected_state) in zip(
        *(pool.run(train, layerwise, name, how, world_size=2) for layerwise in (True, False)), strict=True
    ):
        assert losses == expected
        for key, value in expected_state.items():
            assert torch.equal(state[key], value), key


def due(_: Context) -> None:
    """Nothing is read before it is there."""
    ddp = DistributedDataParallel(Model(), gradient_as_bucket_view=True)
    layers = LayerwiseOptimizer(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1))
    x = torch.ones(2, 3, 6)
    for _ in range(4):
        ddp(x).backward()
        layers.step()
        assert ddp.module.scale.grad is None
    weight = ddp.module.first.weight
    assert weight.numel() == 0
    with pytest.raises(RuntimeError):
        torch.nn.functional.linear(x, weight)
    assert ddp.module.first.state_dict()["weight"].shape == (6, 6)
    ddp(x).backward()
    assert ddp.module.scale.grad is not None
    assert ddp.module.scale.grad.isnan().all()
    layers.wait()
    assert ddp.module.scale.grad.isfinite().all()
    state = layers.state_dict()
    layers.load_state_dict(state)
    layers.zero_grad()
    assert ddp.module.scale.grad is None


def test_what_is_due_cannot_be_read(pool: RankPool) -> None:
    pool.run(due)


def skipping(context: Context, layerwise: bool, zero: str) -> list[float]:
    """Some steps are not taken, their gradients dropped."""
    torch.manual_seed(3)
    ddp = DistributedDataParallel(Model(), gradient_as_bucket_view=True)
    inner = torch.optim.SGD(ddp.parameters(), lr=0.1)
    optimizer = LayerwiseOptimizer(ddp, inner) if layerwise else inner
    zeroing = {"optimizer": optimizer.zero_grad, "inner": inner.zero_grad, "model": ddp.zero_grad}[zero]
    losses = []
    for step in range(10):
        loss = ddp(torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(10 * step + context.rank)))
        loss.backward()
        losses.append(loss.item())
        if step % 3 != 1:
            optimizer.step()
        zeroing()
    return losses


@pytest.mark.parametrize("zero", ["optimizer", "inner", "model"])
def test_gradients_may_be_dropped(pool: RankPool, zero: str) -> None:
    ours, plain = (pool.run(skipping, layerwise, zero) for layerwise in (True, False))
    assert ours == plain


def changing(_: Context) -> None:
    """Gradients that are on their way, also those of one element, which torch would let us write to."""
    ddp = DistributedDataParallel(torch.nn.Linear(3, 1), gradient_as_bucket_view=True)
    optimizer = LayerwiseOptimizer(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1))
    weight, bias = ddp.module.weight, ddp.module.bias

    def replace() -> None:
        weight.grad = weight.grad * 0.5

    def write() -> None:
        bias.grad.mul_(0.5)

    for change in (replace, write):
        for use in (optimizer.step, optimizer.wait, optimizer.zero_grad):
            ddp(torch.ones(2, 3)).sum().backward()
            change()
            with pytest.raises(RuntimeError, match=r"call wait\(\) of the LayerwiseOptimizer"):
                use()
            weight.grad = bias.grad = None


def test_gradients_that_are_changed_too_early_are_refused(pool: RankPool) -> None:
    pool.run(changing)


def left_alone(context: Context, waits: bool) -> None:
    """Another rank leaves before a step's gradients are there: each use says so, and no weight is lost or spoiled."""
    ddp = DistributedDataParallel(torch.nn.Linear(3, 2), gradient_as_bucket_view=True)
    optimizer = LayerwiseOptimizer(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1))
    for step in range(4):
        if step == 3:
            optimizer.flush()
            dist.barrier()
            if context.rank == 1:
                dist.destroy_process_group()
                return
        ddp(torch.ones(2, 3)).sum().backward()
        if step < 3:
            optimizer.step()
    weight = ddp.module.weight
    if not waits:
        optimizer.step()
        assert weight.shape == (0,)
    for use in (optimizer.wait, optimizer.zero_grad, optimizer.wait) if waits else [optimizer.flush] * 2:
        with pytest.raises(dist.DistError, match="rank 1"):
            use()
    assert weight.shape == ((2, 3) if waits else (0,))
    assert weight.isfinite().all()


@pytest.mark.parametrize("waits", [True, False])
def test_a_rank_that_leaves_is_told_of(pool: RankPool, waits: bool) -> None:
    pool.run(left_alone, waits, world_size=3)


def refusals(_: Context) -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="gradient_as_bucket_view=True"):
        LayerwiseOptimizer(DistributedDataParallel(model), torch.optim.SGD(model.parameters()))
    with pytest.raises(ValueError, match="pass a DistributedDataParallel"):
        LayerwiseOptimizer(model, torch.optim.SGD(model.parameters()))  # type: ignore[arg-type]
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    for parameters in ([torch.nn.Parameter(torch.ones(1))], [model.weight]):
        with pytest.raises(ValueError, match="has to have all parameters"):
            LayerwiseOptimizer(ddp, torch.optim.SGD(parameters))


def test_what_does_not_work_is_refused(pool: RankPool) -> None:
    pool.run(refusals)
