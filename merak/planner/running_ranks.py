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


def cluster_of_ranks(device: torch.device) -> Cluster:
    """That of the default process group, of backend "merak", measured. Collective.

    Args:
        device: this rank's.

    Raises:
        ValueError: there is no process group, or it is not merak's.
    """
    if not dist.is_initialized():
        raise ValueError(
            'without a cluster the plan is for the ranks that run, and there are none: say init_process_group("merak") '
            "first, or give a merak.Cluster"
        )
    return calibrate(device)


def found_by_all(find: Callable[[], Found], device: torch.device) -> Found:
    """What a search finds on each rank, with rank 0's plan, whose measurements count. Collective.

    Args:
        find: searches.
        device: this rank's.

    Raises:
        Exception: of this rank's search.
        ValueError: the search failed on another rank.
    """
    found: Found | None = None
    problem: Exception | None = None
    try:
        found = find()
    except Exception as error:  # whatever it is, other ranks wait to hear of it
        problem = error
    answers = gather_json({"plan": found and found.plan.to_json(), "problem": problem and str(problem)}, device)
    if problem is not None:
        raise problem
    assert found is not None
    for rank, answer in enumerate(answers):
        if answer["plan"] is None:
            raise ValueError(f"no plan was found on rank {rank}: {answer['problem']}")
    return replace(found, best=replace(found.best, plan=Plan.from_json(answers[0]["plan"])))
