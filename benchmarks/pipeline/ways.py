"""A step of a pipeline in several ways: merak's executor, and the schedules of torch.distributed.pipelining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch.distributed as dist

from .cases import RUNTIME, Case, kind_of
from .emulation import Device
from .ours import MerakWay
from .peers import TorchWay


class Way(Protocol):
    """Prepared once and called many times."""

    device: Device

    def step(self) -> None:
        """Forwards and backwards of all micro-batches."""

    def take_gradients(self) -> list[float]:
        """Of the weights of this rank's stages, which start anew."""


def make(way: str, case: Case, numbers: int, forward_s: float, groups: Mapping[str, dist.ProcessGroup]) -> Way:
    """The way of that name; `numbers`: of a value that crosses."""
    kind = kind_of(way)
    if way.startswith("merak"):
        return MerakWay(case, kind, numbers, forward_s, groups["merak"])
    group = groups["gloo" if way.endswith("(gloo)") else "merak"]
    return TorchWay(case, kind, numbers, forward_s, group, in_runtime=way.startswith(RUNTIME))
