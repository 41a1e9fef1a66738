"""Same numbers as one process that runs the same micro-batches in order.

`make test` runs a sample. All models with all plans take an hour of two cores: `pytest -m slow tests/engine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.pipelining import schedules

from merak.engine import Plan
from tests.engine import parity, zoo
from tests.engine.parity import Trial
from tests.pipeline.torch_orders import torch_runtime

Runner = Callable[..., list[Any]]

PLANS = {
    "one-rank": Plan(microbatches=3),
    "1f1b": Plan(pp=2, microbatches=3),
    "gpipe": Plan(dp=2, pp=2, microbatches=2, schedule="gpipe", recompute=1.0),
    "fewer-than-stages": Plan(pp=4, microbatches=2, recompute=0.5),
    "interleaved": Plan(pp=2, microbatches=4, schedule="interleaved", stages=4),
    "looped-bfs": Plan(pp=2, microbatches=3, schedule="looped-bfs", stages=4, recompute=(0.0, 1.0, 0.6, 0.3)),
    "eager": Plan(dp=2, pp=3, microbatches=4, schedule="eager", recompute=(0.7, 0.0, 1.0)),
    "eager-delayed": Plan(pp=2, microbatches=4, schedule="eager-delayed"),
    "shifted": Plan(pp=3, microbatches=4, schedule="shifted", recompute=1.0),
    "selective": Plan(pp=2, microbatches=3, schedule="gpipe", recompute=1.0, keep=("aten.[a-m]*",)),
    "zero-bubble": Plan(dp=2, pp=2, microbatches=4, schedule="zero-bubble", stages=2),
    "zbv": Plan(pp=2, microbatches=4, schedule="zbv"),
    "replicas": Plan(dp=4, pp=2, microbatches=2, recompute=0.4),
    "sparse": Plan(dp=2, pp=2, microbatches=2, data_parallel="sparse"),
    "zero1": Plan(dp=2, pp=2, microbatches=3, data_parallel="zero1"),
    "tp": Plan(tp=2, microbatches=3),
    "tp-3d": Plan(dp=2, tp=2, pp=2, microbatches=2, schedule="eager", recompute=(0.5, 1.0), data_parallel="zero1"),
    "tp-uneven": Plan(tp=3, pp=2, microbatches=4, schedule="zbv"),
    "tp-sequence": Plan(tp=2, pp=2, microbatches=3, sequence_parallel=True, schedule="zero-bubble", stages=2),
    "tp-parts": Plan(tp=2, pp=2, microbatches=2, sub_batches=2, recompute=(0.5, 0.0)),
    "tp-parts-sequence": Plan(tp=2, microbatches=2, sub_batches=3, sequence_parallel=True),
}
SAMPLE = {("unet", plan) for plan in PLANS} | {
    ("gpt2", "1f1b"),
    ("gpt2", "tp-3d"),
    ("gpt2", "interleaved"),
    ("gpt2", "zbv"),
    ("llama", "sparse"),
    ("t5", "1f1b"),
    ("mixtral", "eager-delayed"),
    ("gemma3", "1f1b"),
    ("mamba", "1f1b"),
    ("resnet", "looped-bfs"),
}


def trials() -> list[Any]:
    return [
        pytest.param(model, plan, id=f"{model}-{plan}", marks=() if (model, plan) in SAMPLE else pytest.mark.slow)
        for model in zoo.ZOO
        for plan in PLANS
    ]


@pytest.mark.parametrize(("model", "plan"), trials())
def test_same_numbers(run: Runner, model: str, plan: str) -> None:
    trial = Trial(model, PLANS[plan], dtype=parity.compared_in(model, PLANS[plan]))
    outcomes = run(parity.train, trial, world_size=trial.plan.world_size, deadline=240)
    parity.assert_same(outcomes, parity.in_one_process(trial))


@pytest.mark.parametrize("plan", ["looped-bfs", "tp-sequence"])
@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name == "unet" else pytest.mark.slow) for name in zoo.ZOO]
)
def test_same_numbers_in_double_precision(run: Runner, model: str, plan: str) -> None:
    if not zoo.ZOO[model].double:
        pytest.skip("the CPU has not all of its operations in fp64")
    trial = Trial(model, PLANS[plan], dtype=torch.float64)
    outcomes = run(parity.train, trial, world_size=trial.plan.world_size, deadline=240)
    parity.assert_same(outcomes, parity.in_one_process(trial), 1e-10)


def test_an_order_of_torchs_own(run: Runner, tmp_path: Path) -> None:
    path = str(tmp_path / "dualpipev.csv")
    torch_runtime(schedules.ScheduleDualPipeV, 2, 2, 6)._dump_csv(path, format="compute_only")
    plan = Plan(pp=2, microbatches=6, stages=4, schedule=path)
    for rows in (6, 4):  # with fewer rows, and so micro-batches, than the order is for
        outcomes = run(parity.train, Trial("unet", plan, rows=(rows,)), world_size=2, deadline=240)
        parity.assert_same(outcomes, parity.in_one_process(Trial("unet", Plan(microbatches=rows), rows=(rows,))))


# Dropout: one process has no say in what is dropped, but all plans must drop the same ------------------------------

# The same rows in the same micro-batches, which are counted over all data-parallel ranks.
SAME_MICRO_BATCHES = {
    "one-rank": Plan(microbatches=4),
    "replicas": Plan(dp=4, microbatches=1),
    "1f1b": Plan(pp=2, microbatches=4, recompute=(0.5, 1.0)),
    "interleaved": Plan(pp=2, microbatches=4, schedule="interleaved", stages=4, recompute=1.0, keep=("*",)),
    "gpipe": Plan(dp=2, pp=2, microbatches=2, schedule="gpipe"),
    "zbv": Plan(pp=2, microbatches=4, schedule="zbv"),
    "shifted": Plan(pp=3, microbatches=4, schedule="shifted"),
    "tp": Plan(tp=2, pp=2, microbatches=4, recompute=1.0),
    "tp-uneven": Plan(tp=3, microbatches=4),
    "tp-sequence": Plan(tp=2, dp=2, microbatches=2, sequence_parallel=True),
}
WITH_DROPOUT = [name for name, specimen in zoo.ZOO.items() if specimen.dropout]


@pytest.mark.parametrize(
    "model", [pytest.param(n, marks=() if n == "unet" else pytest.mark.slow) for n in WITH_DROPOUT]
)
def test_any_plan_drops_the_same(run: Runner, model: str) -> None:
    def trained(name: str, **changes: Any) -> list[parity.Outcome]:
        plan = dataclasses.replace(SAME_MICRO_BATCHES[name], **changes)
        trial = Trial(model, plan, rows=(8,), dropout=0.3, dtype=dtype, shared_batch=True)
        return run(parity.train, trial, world_size=plan.world_size, deadline=240)

    dtype = parity.compared_in(model, Plan())
    once = Trial(model, Plan(microbatches=4), (8,), 0.3, dtype=dtype, shared_batch=True)
    expected = parity.in_one_captured_process(once)
    for name in SAME_MICRO_BATCHES:
        parity.assert_same(trained(name), expected)
    (other,) = trained("one-rank", seed=1)
    assert abs(other.losses[0] - expected.losses[0]) > 1e-4, "another seed drops others"
    plain = parity.in_one_process(dataclasses.replace(once, dropout=0.0))
    assert abs(plain.losses[0] - expected.losses[0]) > 1e-4, "something is dropped"


def test_each_step_drops_others(run: Runner) -> None:
    trial = Trial("unet", Plan(pp=2, microbatches=2), (4,), 0.3, shared_batch=True)
    losses, again = (one.losses for one in run(parity.train_without_steps, trial, world_size=2))
    assert losses == again
    assert len(set(losses)) == len(losses)
