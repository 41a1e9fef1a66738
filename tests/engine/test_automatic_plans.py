"""Plans that were found: they train as one process does. The clusters are such that different kinds of plans win."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from merak.planner import Cluster, Device, Found, find_plan
from tests.engine import parity, zoo
from tests.engine.parity import Trial

Runner = Callable[..., list[Any]]
ROWS = 8
SLOW = dataclasses.replace(Device.named("CPU core"), name="CPU slow", flops={"fp32": 1e9}, overhead_s=0.0, of_peak={})
CLUSTERS: dict[str, tuple[Cluster, dict[str, Any]]] = {
    "replicas": (Cluster.uniform("CPU core", 1, 4, inside="100GB/s 1us"), {}),
    "shared": (Cluster.uniform(SLOW, 1, 4, inside="100GB/s 0us"), {"dp": 1}),
    "pipeline": (Cluster.uniform(SLOW, 4, 1, between="10MB/s 1us"), {"dp": 1}),
    "mixed": (Cluster.uniform(SLOW, 2, 2, inside="100GB/s 0us", between="100MB/s 1us"), {"pp": 2}),
}
SAMPLE = {("gpt2", "pipeline"), ("bert", "mixed")}


def found_for(model: str, cluster: str) -> Found:
    where, pinned = CLUSTERS[cluster]
    batch = zoo.batch_of(model, ROWS, 0)
    return find_plan(zoo.make(model), batch, where, rows=ROWS, loss_fn=zoo.ZOO[model].loss_fn, **pinned)


@pytest.mark.parametrize(
    ("model", "cluster"),
    [
        pytest.param(model, name, id=f"{model}-{name}", marks=() if (model, name) in SAMPLE else pytest.mark.slow)
        for model in zoo.ZOO
        for name in CLUSTERS
    ],
)
def test_same_numbers(run: Runner, model: str, cluster: str) -> None:
    plan = found_for(model, cluster).plan
    print(plan)
    trial = Trial(model, plan, rows=(ROWS,), dtype=parity.compared_in(model, plan), shared_batch=True)
    expected = parity.in_one_process(trial)
    parity.assert_same(run(parity.train, trial, world_size=plan.world_size, deadline=240), expected)
