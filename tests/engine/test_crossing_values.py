"""Values of all kinds cross stages: transposed ones that the next stage takes for views, complex, conjugated ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import merak
from merak.graph import CaptureError, prepare
from merak.pipeline import crossing
from tests.backend.harness import Context

Batch = dict[str, torch.Tensor]


class Turning(nn.Module):
    """Views of transposed tensors, and complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, _ = x.shape
        turned = self.first(x).view(rows, length, 2, 4).transpose(1, 2)
        back = turned.transpose(1, 2).view(rows, length, 8)  # fails if `turned` lies in memory as it reads
        z = torch.complex(back, 2 * back).conj()
        out: torch.Tensor = self.third(self.second((z * z).real))
        return out


def mean_square(output: torch.Tensor, _: Any) -> torch.Tensor:
    return output.square().mean()


def train_with_every_cut(
    context: Context, batch: Batch, names: list[str], tp: int | tuple[int, ...]
) -> list[tuple[str, float, float]]:
    """Of each cut: the loss, and how far gradients are from those of the whole model. All values go in shares."""
    torch.manual_seed(0)
    model = Turning()
    whole = copy.deepcopy(model)
    mean_square(whole(batch["x"]), batch).backward()
    wanted = {name: parameter.grad for name, parameter in whole.named_parameters()}
    found = []
    for name in names:
        plan = merak.Plan(tp=tp, pp=2, microbatches=3, cuts=(name,))
        engine = merak.parallelize(
            copy.deepcopy(model), plan, batch, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), loss_fn=mean_square
        )
        with mock.patch.object(crossing, "LEAST_BYTES", 0):
            loss = engine.train_step(batch)
        whole = engine._owned.division.whole
        errors = [float((whole(key, one.grad) - wanted[key]).abs().max()) for key, one in engine.parameters.items()]
        found.append((name, loss, max(errors, default=0.0)))
    return found


@pytest.mark.parametrize(
    "tp",
    [
        pytest.param(1, marks=pytest.mark.slow),
        pytest.param(2, marks=pytest.mark.slow),
        (2, 1),
        pytest.param((1, 3), marks=pytest.mark.slow),
    ],
)
def test_the_numbers_are_those_of_the_whole_wherever_it_is_cut(
    run: Callable[..., list[Any]], tp: int | tuple[int, ...]
) -> None:
    batch = {"x": torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(1))}
    cuttable = prepare(Turning(), batch, loss_fn=mean_square).cuttable
    names = [node.name for node, may in zip(cuttable.trunk, cuttable.may_cut, strict=True) if may]
    assert {"transpose_1", "mul_1", "_conj"} <= set(names)
    plan = merak.Plan(tp=tp, pp=2)
    for found in run(train_with_every_cut, batch, names, tp, world_size=plan.world_size):
        assert len({round(loss, 5) for _, loss, _ in found}) == 1
        for name, _, error in found:
            assert error < 1e-6, name


def test_a_cut_at_nothing_is_refused(run: Callable[..., list[Any]]) -> None:
    batch = {"x": torch.ones(6, 5, 8)}
    assert all(run(refuse, batch, world_size=2))


def refuse(context: Context, batch: Batch) -> bool:
    try:
        merak.parallelize(
            Turning(), merak.Plan(pp=2, cuts=("fourth",)), batch, optimizer=torch.optim.SGD, loss_fn=mean_square
        )
    except CaptureError as error:
        return "no module or operation 'fourth'" in str(error)
    return False
