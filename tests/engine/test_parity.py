"""Same numbers as one process that runs the same micro-batches in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from merak.engine import Plan
from tests.engine import parity, zoo
from tests.engine.parity import Trial

Runner = Callable[..., list[Any]]

PLANS = {
    "one-rank": Plan(microbatches=3),
    "1f1b": Plan(pp=2, microbatches=3),
    "gpipe": Plan(dp=2, pp=2, microbatches=2, schedule="gpipe", recompute=1.0),
    "fewer-than-stages": Plan(pp=4, microbatches=2, recompute=0.5),
    "interleaved": Plan(pp=2, microbatches=4, schedule="interleaved", stages=4),
    "eager": Plan(dp=2, pp=3, microbatches=4, schedule="eager", recompute=(0.7, 0.0, 1.0)),
    "shifted": Plan(pp=3, microbatches=4, schedule="shifted", recompute=1.0),
    "replicas": Plan(dp=4, pp=2, microbatches=2, recompute=0.4),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("model", zoo.ZOO)
def test_same_numbers(run: Runner, model: str, plan: str) -> None:
    trial = Trial(model, PLANS[plan])
    outcomes = run(parity.train, trial, world_size=trial.plan.world_size, deadline=120)
    parity.assert_same(outcomes, parity.in_one_process(trial))
