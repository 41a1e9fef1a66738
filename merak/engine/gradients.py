"""Gradients of a rank's parameters: where they are, and how ranks agree on them.

The gradients of parameters that are complete at the same time lie one behind the other in one *bucket* of memory, a
bucket for each dtype; a parameter's `.grad` is a view of its bucket, so that nothing is copied before or after they are
reduced. A parameter that several stages of this rank use is complete with the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn


class Bucket:
    """The gradients of some parameters of one dtype, in one piece of memory."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        sizes = [parameter.numel() for parameter in self.parameters]
        self.flat = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
        self.views = [
            part.view_as(parameter) for part, parameter in zip(self.flat.split(sizes), self.parameters, strict=True)
        ]

    def clear(self) -> None:
        """Makes all gradients zero, in place; gradients that somebody replaced are put back."""
        self.flat.zero_()
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view


class Gradients:
    """The gradients of one rank.

    Args:
        parameters: by name, those that get gradients.
        stages: of each name, the stages of this rank that use it.
        order: the stages of this rank, in the order in which their backwards end.
        replicas: group that gradients are added up over.
        shared: names of parameters that other ranks of the pipeline have too, with the group of all that have them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        stages: Mapping[str, Sequence[int]],
        order: Sequence[int],
        replicas: dist.ProcessGroup,
        shared: Mapping[str, dist.ProcessGroup],
    ) -> None:
        by_end: dict[tuple[int, torch.dtype], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            last = max(stages[name], key=list(order).index)
            by_end.setdefault((last, parameter.dtype), []).append(parameter)
        self._buckets: dict[int, list[Bucket]] = {}
        for (stage, _), members in by_end.items():
            self._buckets.setdefault(stage, []).append(Bucket(members))
        self._replicas = replicas
        # By name, so that all ranks begin these in one order.
        self._shared = [(parameters[name], group) for name, group in sorted(shared.items()) if name in parameters]
        self._working: list[dist.Work] = []

    @property
    def buckets(self) -> list[Bucket]:
        """All of them."""
        return [bucket for buckets in self._buckets.values() for bucket in buckets]

    def clear(self) -> None:
        """Before a step: all are zero."""
        for bucket in self.buckets:
            bucket.clear()

    def reduce(self, stage: int) -> None:
        """Begins to add up over replicas what is complete with this stage."""
        if self._replicas.size() == 1:
            return
        for bucket in self._buckets.get(stage, ()):
            self._working.append(dist.all_reduce(bucket.flat, group=self._replicas, async_op=True))

    def finish(self) -> None:
        """Waits for `reduce`, and adds up gradients of parameters that several stages use."""
        for work in self._working:
            work.wait()
        self._working.clear()
        for work in [dist.all_reduce(one.grad, group=group, async_op=True) for one, group in self._shared]:
            work.wait()
