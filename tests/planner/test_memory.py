"""Memory of a step, predicted and counted storage by storage; and that steps leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

import merak
from benchmarks.planner.memory import measured_bytes, tensors_alive
from benchmarks.planner.prediction import MODELS, predicted
from merak.planner import Cluster, Plan, Prices, Workload
from tests.backend.harness import Context
from tests.engine import zoo

Runner = Callable[..., list[Any]]
MODEL = "gpt2-emulated"  # the small one
WITHIN = 0.05


def both(context: Context, plan: Plan) -> tuple[float, int]:
    """Predicted and measured bytes of this rank."""
    model, batch = MODELS[MODEL]()
    prices = Prices(Workload(model, batch), Cluster.uniform("CPU core", context.world_size, 1, between="1Gbit/s"))
    del model, batch
    cut, prediction = predicted(plan, prices)
    return prediction.memory_bytes[plan.place_of(dist.get_rank())[0]], measured_bytes(MODEL, cut)


PLANS = [
    Plan(microbatches=2),
    Plan(tp=2, microbatches=2, sub_batches=2),
    pytest.param(Plan(pp=2, microbatches=4, recompute=1.0), marks=pytest.mark.slow),
    pytest.param(Plan(pp=2, microbatches=2, schedule="gpipe"), marks=pytest.mark.slow),
    pytest.param(Plan(tp=2, microbatches=2, sequence_parallel=True), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_memory_is_as_predicted(run: Runner, plan: Plan) -> None:
    for expected, measured in run(both, plan, world_size=plan.world_size, deadline=180):
        assert expected == pytest.approx(measured, rel=WITHIN)


def bytes_alive() -> int:
    storages = [one.untyped_storage() for one in tensors_alive()]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def bytes_after_steps(context: Context, plan: Plan) -> list[int]:
    """Of all tensors that are alive, after each of a few steps."""
    engine = merak.parallelize(
        zoo.make("gpt2"),
        plan,
        zoo.batch_of("gpt2", 4, 0),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
    )
    found = []
    for _ in range(5):
        engine.train_step(zoo.batch_of("gpt2", 4, 0))
        found.append(bytes_alive())
    return found


@pytest.mark.parametrize("sub_batches", [1, 2])
def test_steps_leave_nothing_behind(run: Runner, sub_batches: int) -> None:
    plan = Plan(tp=2, microbatches=2, sub_batches=sub_batches)
    for _, second, *others in run(bytes_after_steps, plan, world_size=2, deadline=120):
        assert max(others) <= second
