"""The compute orders are torch's, wherever torch has them."""

from __future__ import annotations

from typing import Any

import pytest
from torch.distributed.pipelining import schedules

from merak.pipeline import Schedule
from tests.pipeline.torch_orders import computing, executed, torch_runtime

Case = tuple[str, Any, tuple[int, ...]]
CASES: list[Case] = [
    ("gpipe", schedules.ScheduleGPipe, (1,)),
    ("1f1b", schedules.Schedule1F1B, (1,)),
    ("interleaved", schedules.ScheduleInterleaved1F1B, (1, 2, 3, 4)),
    ("looped-bfs", schedules.ScheduleLoopedBFS, (1, 2, 3, 4)),
    ("zero-bubble", schedules.ScheduleInterleavedZeroBubble, (1, 2, 3, 4)),
    ("zbv", schedules.ScheduleZBVZeroBubble, (2,)),
]


def torch_order(cls: Any, ranks: int, stages_per_rank: int, microbatches: int) -> list[list[str]]:
    if issubclass(cls, schedules.PipelineScheduleSingle):
        return executed(cls, ranks, microbatches)
    return computing(torch_runtime(cls, ranks, stages_per_rank, microbatches).pipeline_order)


def own_order(kind: str, ranks: int, stages_per_rank: int, microbatches: int) -> list[list[str]]:
    stages = stages_per_rank * ranks
    schedule = Schedule.make(kind, stages=stages, ranks=ranks, microbatches=microbatches, communication=False)
    actions = [schedule.actions(rank) for rank in range(ranks)]
    return [[f"{a.stage}{a.kind}{a.microbatch}" for a in row if a.kind != "REDUCE_GRAD"] for row in actions]


@pytest.mark.parametrize(("kind", "cls", "of_rank"), CASES, ids=[case[0] for case in CASES])
def test_orders_are_those_of_torch(kind: str, cls: Any, of_rank: tuple[int, ...]) -> None:
    compared = 0
    for ranks in range(1, 7):
        for stages_per_rank in of_rank:
            for microbatches in range(1, 21):
                try:
                    order = torch_order(cls, ranks, stages_per_rank, microbatches)
                except ValueError:  # torch has none of that size
                    continue
                assert own_order(kind, ranks, stages_per_rank, microbatches) == order
                compared += 1
    assert compared >= 100


@pytest.mark.parametrize("microbatches", [1, 2, 5, 7, 11, 13])
@pytest.mark.parametrize("kind", ["interleaved", "zero-bubble"])
def test_any_number_of_microbatches_works(kind: str, microbatches: int) -> None:
    for ranks in (2, 3, 4, 5):
        Schedule.make(kind, stages=2 * ranks, ranks=ranks, microbatches=microbatches).check()
