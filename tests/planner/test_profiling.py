"""Operations that are timed one by one. How long they take is the machine's affair; that all are timed is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from merak.planner import Cluster, Plan, Prices, Workload, predict
from merak.planner.collective_times import LinearTime
from merak.planner.prices import Way
from merak.planner.profiling import Profiler
from tests.planner.test_shared_work import batch_of, text_model


class Counting(Profiler):
    """Each forward takes a second, each backward two, and to call it a quarter."""

    calls = 0

    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        self.calls += 1
        is_backward = call.func is torch.autograd.grad  # type: ignore[attr-defined]
        of_nothing = is_backward and call.keywords.get("retain_graph")  # type: ignore[attr-defined]
        return call(), 0.25 if of_nothing else 2.25 if is_backward else 1.0


CLUSTER = Cluster.uniform("CPU core", 2, 1, between="1Gbit/s")


@pytest.fixture(scope="module", params=["gpt2", "llama", pytest.param("t5", marks=pytest.mark.slow)])
def workload(request: pytest.FixtureRequest) -> Workload:
    return Workload(text_model(request.param), batch_of(4))


@pytest.mark.parametrize("way", [Way(), Way(2), Way(2, True), Way(2, False, 2)])
def test_every_operation_is_timed(workload: Workload, way: Way) -> None:
    profiler = Counting()
    prices = Prices(workload, CLUSTER, profiler=profiler)
    with mock.patch.object(Cluster, "linear_time", return_value=LinearTime(0.0, 0.0)):
        timed = prices.timed(way, 6, range(way.ranks))
    trunk = workload.prepared.cuttable.trunk
    computes = np.array([not workload.work[node].is_view for node in trunk])
    communicates = np.array(["embedding" in node.name or "cross_entropy" in node.name for node in trunk]) & (
        way.ranks > 1
    )
    assert (timed.forward_s[computes & ~communicates] >= 1).all()
    assert (timed.forward_s[computes] > 0).all()
    products = np.array([workload.work[node].flops.at(1) > 0 for node in trunk])
    in_backward = np.array([node in workload.gradients for node in trunk])
    backward = timed.backward_input_s + timed.backward_weight_s
    assert (backward[products & in_backward] >= 2).all()
    assert (backward[~in_backward] == 0).all()
    calls = profiler.calls
    prices.timed(way, 6, range(way.ranks))
    assert profiler.calls == calls, "what is known is not timed again"


def test_predictions_follow_what_was_measured(workload: Workload) -> None:
    plan = Plan(pp=2, microbatches=2)
    prices = Prices(workload, CLUSTER, profiler=Counting())
    operations = len(workload.prepared.cuttable.trunk)
    assert predict(plan, prices, 4).step_s > operations / 2


def test_what_is_computed_is_left_as_it_was() -> None:
    """In-place operations are timed on copies, or once, and the graph goes on with what it would have."""

    class InPlace(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.linear(x)
            y.mul_(2.0)
            return {"loss": y.relu_().square().mean()}

    workload = Workload(InPlace(), {"x": torch.ones(4, 4)})
    timed = Prices(workload, CLUSTER, profiler=Counting()).timed(Way(), 4, [0])
    assert np.isfinite(timed.forward_s).all()
    assert timed.forward_s.sum() >= 4
