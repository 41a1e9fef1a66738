"""`plan="auto"`: the plan that trains the model fastest on the ranks that run.

The global batch is what it would be with a replica on each rank: `per_device_train_batch_size` rows for each of them.
Where the plan has fewer replicas, each is given more rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from merak.engine import Plan
from merak.graph.capture import LossFunction
from merak.planner import Cluster, Found, calibrate, find_plan
from merak.planner.running_ranks import found_by_all

ClusterLike = Cluster | str | Path


def cluster_of(cluster: ClusterLike | None, device: torch.device) -> Cluster:
    """What users give: a cluster, the path of its file, or nothing, so that it is measured. Collective.

    Raises:
        ValueError: it has another number of devices than there are ranks.
    """
    found = calibrate(device) if cluster is None else cluster if isinstance(cluster, Cluster) else Cluster.load(cluster)
    if found.devices != dist.get_world_size():
        raise ValueError(
            f"the cluster {found.name!r} has {found.devices} devices, and {dist.get_world_size()} ranks are running: "
            "leave `cluster` away to have it measured"
        )
    return found


def plan_of_all(
    model: nn.Module,
    example: Mapping[str, Any],
    cluster: Cluster,
    rows: int,
    start: Plan,
    loss_fn: LossFunction | None,
    device: torch.device,
) -> tuple[Found, Plan]:
    """What was found, and the plan of all: rank 0's, whose example counts. Collective.

    Args:
        rows: of the global batch.
        start: says precision and seed.
    """
    find = partial(find_plan, model, example, cluster, rows=rows, precision=start.precision, loss_fn=loss_fn)
    found = found_by_all(find, device)
    return found, dataclasses.replace(found.plan, seed=start.seed)
