"""merak's schedules for users of `torch.distributed.pipelining`: torch's stages and runtime, merak's order.

    stage = PipelineStage(module, index, n_stages, device)
    schedule = torch_schedule("eager", stage, n_microbatches=8, loss_fn=loss_fn)
    schedule.step(x)                       # on the first rank; `step(target=y, losses=losses)` on the last

torch's runtime has no recompute, so a schedule with R is refused; the other kinds' orders all run, among them eager
1F1B, which torch has not, with any number of micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from merak._torch_compat import pipeline_runtime
from merak.pipeline.schedule import Schedule

if TYPE_CHECKING:
    import torch
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti


def torch_schedule(
    schedule: str | Schedule,
    stages: PipelineStage | list[PipelineStage],
    n_microbatches: int,
    loss_fn: Callable[..., torch.Tensor] | None = None,
    **options: Any,
) -> PipelineScheduleMulti:
    """What torch's own schedule classes give: an object with `step` and `eval`.

    Args:
        schedule: one of `merak.pipeline.schedule.KINDS` ("shifted" without its recompute), or a schedule.
        stages: this rank's.
        options: what torch's multi-stage schedules take as well, such as `scale_grads`.
    Raises:
        ValueError: torch cannot express it (R, edges that skip stages), or the stages are not where it has them.
    """
    own = stages if isinstance(stages, list) else [stages]
    if not own:
        raise ValueError("a rank needs at least one stage")
    n_stages, ranks, rank = own[0].num_stages, own[0].group_size, own[0].group_rank
    if isinstance(schedule, str):
        schedule = Schedule.make(
            schedule,
            stages=n_stages,
            ranks=ranks,
            microbatches=n_microbatches,
            recompute=False,
            communication=False,
            reduction=False,
        )
    _check_places(schedule, sorted(stage.stage_index for stage in own), n_stages, ranks, rank)
    if schedule.n_microbatches != n_microbatches:
        raise ValueError(f"the schedule has {schedule.n_microbatches} micro-batches, not {n_microbatches}")
    rows = [line.split(",") for line in schedule.to_torch_csv().splitlines()]
    return pipeline_runtime(rows, own, n_microbatches, loss_fn, options)


def _check_places(schedule: Schedule, own: list[int], n_stages: int, ranks: int, rank: int) -> None:
    if (schedule.n_stages, schedule.n_ranks) != (n_stages, ranks):
        raise ValueError(
            f"the schedule has {schedule.n_stages} stages on {schedule.n_ranks} ranks, but there are {n_stages} stages "
            f"on {ranks} ranks"
        )
    if schedule.stages_of(rank) != own:
        raise ValueError(f"the schedule has stages {schedule.stages_of(rank)} on rank {rank}, which was given {own}")
