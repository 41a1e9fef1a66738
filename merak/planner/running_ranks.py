"""The plan of the ranks that run: their cluster is measured, and all take the plan that rank 0 has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist

from merak.backend.texts import gather_json
from merak.planner.calibration import calibrate
from merak.planner.cluster import Cluster
from merak.planner.found import Found
from merak.planner.plan import Plan


def found_by_all(find: Callable[[Cluster], Found], device: torch.device) -> Found:
    """What a search finds for the default process group, of backend "merak". Collective; the same plan on all ranks.

    Args:
        find: searches, on each rank; what it raises on one, all raise.
        device: this rank's.

    Raises:
        ValueError: there is no process group, or it is not merak's.
    """
    if not dist.is_initialized():
        raise ValueError(
            'without a cluster the plan is for the ranks that run, and there are none: say init_process_group("merak") '
            "first, or give a merak.Cluster"
        )
    cluster = calibrate(device)
    found, problem = None, ""
    try:
        found = find(cluster)
    except ValueError as error:
        problem = str(error)
    answers = gather_json({"plan": found and found.plan.to_json(), "problem": problem}, device)
    if failed := {rank: answer["problem"] for rank, answer in enumerate(answers) if answer["problem"]}:
        rank, problem = next(iter(failed.items()))
        raise ValueError(f"rank {rank}: {problem}")
    assert found is not None
    return replace(found, best=replace(found.best, plan=Plan.from_json(answers[0]["plan"])))
