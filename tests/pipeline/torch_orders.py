"""torch's own schedules without processes, as oracles."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from torch.distributed.pipelining import schedules


class Stage:
    """What a schedule asks of a stage when it is made."""

    def __init__(self, index: int, n_stages: int, ranks: int) -> None:
        self.stage_index, self.num_stages = index, n_stages
        self.group_size, self.group_rank = ranks, index % ranks
        self.submod = nn.Identity()
        self.is_first, self.is_last = index == 0, index == n_stages - 1
        self.has_backward = True
        self.stage_index_to_group_rank = {stage: stage % ranks for stage in range(n_stages)}


def torch_runtime(cls: Any, ranks: int, stages_per_rank: int, microbatches: int) -> Any:
    """One of torch's schedules, on rank 0."""
    n_stages = stages_per_rank * ranks
    own = [Stage(index, n_stages, ranks) for index in range(0, n_stages, ranks)]
    single = issubclass(cls, schedules.PipelineScheduleSingle)
    return cls(own[0] if single else own, microbatches, loss_fn=nn.functional.mse_loss)


def executed(cls: Any, ranks: int, microbatches: int) -> list[list[str]]:
    """By rank: what one of torch's single-stage schedules really calls. (The order that 1F1B of torch 2.15 prints has
    the last stage begin with micro-batch 1.)"""
    return [_calls(cls, Stage(index, ranks, ranks), microbatches) for index in range(ranks)]


def _calls(cls: Any, stage: Any, microbatches: int) -> list[str]:
    calls: list[str] = []
    stage.is_last = False  # there are no losses
    stage.forward_one_chunk = lambda index, *_, **__: calls.append(f"{stage.stage_index}F{index}")
    stage.backward_one_chunk = lambda index, **_: calls.append(f"{stage.stage_index}B{index}")
    for name in ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops"):
        setattr(stage, name, lambda index: [])
    stage.perform_reduce_grad = lambda factor: None
    stage.release_fwd_send_outputs = lambda *_: None
    schedule = cls(stage, microbatches, loss_fn=nn.functional.mse_loss)
    schedule._initialize_stage = lambda *_: None
    nothing: list[Any] = [()] * microbatches
    schedule._step_microbatches(nothing, [{}] * microbatches, nothing, [])
    return calls


def computing(order: dict[int, list[Any]]) -> list[list[str]]:
    """By rank: F, B, I and W, without what torch puts between."""
    rows = [[str(action) for action in order[rank] if action is not None] for rank in sorted(order)]
    return [[text for text in row if re.fullmatch(r"\d+[FBIW]\d+", text)] for row in rows]
