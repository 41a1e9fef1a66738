"""Resharding steps in two halves, between which a graph computes something else.

`begin` sets off what travels in the forward, and `end` waits for it; in the backward `end` sets off what travels then,
and `begin` waits. Between the two of them there is the other half of the batch (`sub_batches`). In the forward that is
so by the order of the graph. The backward is autograd's, which of all that is ready does first what the forward did
last: so `begin` is given an earlier turn, of a time that `moment` noted, and with it all that needs its gradient.

On fake tensors, and where nothing travels, both halves together are the step in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from merak._torch_compat import autograd_time, give_turn
from merak._torch_graphs import is_fake
from merak.sharding import collectives
from merak.sharding.collectives import Start, Transfer, start_gather, start_scatter_sum, start_sum


class Step(NamedTuple):
    """What travels in the forward and in the backward; None where nothing does."""

    forward: Start | None
    backward: Start | None


STEPS: dict[str, Step] = {
    "all_reduce": Step(start_sum, None),
    "vary": Step(None, start_sum),
    "all_gather_vary": Step(start_gather, start_scatter_sum),
    "reduce_scatter": Step(start_scatter_sum, start_gather),
}
"""By name in `collectives`: the steps that can be halved."""


@dataclass
class UnderWay:
    """Between the halves of a step."""

    step: str
    group: str
    cut: tuple[int, ...]
    forward: Transfer | None = None
    backward: Transfer | None = None


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, under_way: UnderWay) -> Any:
        ctx.under_way = under_way
        start = STEPS[under_way.step].forward
        if start is not None:
            under_way.forward = start(x, under_way.group, under_way.cut)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        transfer, ctx.under_way.backward = ctx.under_way.backward, None
        return (gradient if transfer is None else transfer.wait()), None


class _End(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, under_way: UnderWay) -> Any:
        ctx.under_way, ctx.shape = under_way, x.shape
        # What comes of it will know this node, which must not keep it: the two would stay for ever.
        transfer, under_way.forward = under_way.forward, None
        return x.view_as(x) if transfer is None else transfer.wait()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        under_way = ctx.under_way
        start = STEPS[under_way.step].backward
        if start is None:
            return gradient, None
        under_way.backward = start(gradient, under_way.group, under_way.cut)
        return gradient.new_zeros(()).expand(ctx.shape), None  # `_Begin` knows the real one


def begin(x: torch.Tensor, step: str, group: str, *cut: int) -> tuple[torch.Tensor, UnderWay | None]:
    """Sets off a step of `STEPS`; for `end`."""
    if is_fake(x):
        return getattr(collectives, step)(x, group, *cut), None
    under_way = UnderWay(step, group, cut)
    return _Begin.apply(x, under_way), under_way


def end(begun: tuple[torch.Tensor, UnderWay | None], time: int | None = None) -> Any:
    """What comes of a step.

    Args:
        time: a `moment`; what the forward has computed since comes before the step's gradient in the backward.
    """
    x, under_way = begun
    if under_way is None:
        return x
    if time is not None and STEPS[under_way.step].backward is not None:
        give_turn(x, time)
    return _End.apply(x, under_way)


def moment() -> int:
    """Now, as autograd counts."""
    return autograd_time()
