"""merak's Trainer trains what transformers' own Trainer trains in one process with the same global batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merak.engine import Plan
from tests.backend.harness import Context
from tests.engine.trainers import (
    Outcome,
    Task,
    as_torchrun,
    assert_same_logs,
    assert_same_parameters,
    merak_trainer,
    outcome,
    stock_trainer,
)

Runner = Callable[..., list[Any]]

PLANS = {
    "one-rank": Plan(microbatches=2),
    "replicas": Plan(dp=2, microbatches=1),
    "pipeline": Plan(pp=2, microbatches=2, schedule="shifted", recompute=1.0),
    "both": Plan(dp=2, pp=2, microbatches=2, schedule="1f1b"),
    "zero1": Plan(dp=2, pp=2, microbatches=2, data_parallel="zero1"),
    "many-replicas": Plan(dp=4, microbatches=1),
}


def train(context: Context, task: Task, plan: Plan) -> Outcome:
    """What a rank comes to."""
    with as_torchrun(context):
        trainer = merak_trainer(context, task, plan)
        result = trainer.train()
        assert result.global_step == trainer.state.global_step
        return outcome(trainer, trainer.gather_model())


def expect(task: Task, folder: Path) -> Outcome:
    trainer = stock_trainer(task, folder)
    trainer.train()
    return outcome(trainer, trainer.model)


@pytest.mark.parametrize("plan", PLANS)
def test_same_as_one_process(run: Runner, tmp_path: Path, plan: str) -> None:
    task = Task(settings={"eval_strategy": "epoch"})
    expected = expect(task, tmp_path)
    for found in run(train, task, PLANS[plan], world_size=PLANS[plan].world_size, deadline=120):
        assert_same_logs(found, expected)
        assert_same_parameters(found, expected)
