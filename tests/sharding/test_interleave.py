"""Layers whose batch is computed in parts: what one part sends travels while another computes, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import fx, nn

from merak._torch_graphs import TorchDispatchMode
from merak.graph.losses import scales
from merak.graph.prepare import prepare
from merak.pipeline.microbatches import bind, count_targets
from merak.sharding import batch, megatron, overlapped
from merak.sharding.collectives import Transfer
from merak.sharding.completion import Completion
from merak.sharding.interleave import interleave
from merak.sharding.lower import lower
from merak.sharding.parts import Place, parts
from merak.sharding.program import ShardableGraph
from tests.sharding.whole import arguments

BLOCKS, ROWS = 3, 6
Events = list[str]


class Blocks(nn.Module):
    """Feed-forward blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ModuleList(nn.Linear(8, 12) for _ in range(BLOCKS))
        self.down = nn.ModuleList(nn.Linear(12, 8) for _ in range(BLOCKS))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(up(x).relu())
        return {"loss": x.square().mean()}


class Products(TorchDispatchMode):
    """Notes products."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Each counts."""
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.events.append("product")
        return func(*args, **(kwargs or {}))


def noting(events: Events) -> dict[str, overlapped.Step]:
    """Steps that travel nowhere, and say when they would have begun and been waited for."""

    def start(x: torch.Tensor, group: str, cut: tuple[int, ...]) -> Transfer:
        number = sum(event.startswith("start") for event in events)
        events.append(f"start {number}")

        def finish(result: torch.Tensor) -> torch.Tensor:
            events.append(f"wait {number}")
            return result

        return Transfer(x.clone(), None, finish)

    return {
        "all_reduce": overlapped.Step(start, None),
        "vary": overlapped.Step(None, start),
    }


def run(count: int, is_interleaved: bool) -> tuple[Events, Events]:
    """What happens in the forward and in the backward of the first of two ranks."""
    model, example = Blocks(), {"x": torch.randn(ROWS, 8)}
    made = prepare(model, example)
    completion = Completion(ShardableGraph(made, {"tp": 2, "time": count}), [megatron("tp"), batch("time")])
    places = [Place(0, 2, "nowhere"), Place(0, 1, "")]
    lowered = lower(completion, places, sums_at_end=True, time_axis="time")
    tensors: dict[tuple[str, str], torch.Tensor] = {
        ("parameter", name): parts(one.detach(), lowered.layouts[name], places).clone().requires_grad_()
        for name, one in model.named_parameters()
    }
    part = bind(made.captured, example, 0)
    part.scales = scales(made.terms, count_targets(made.terms, [part]), ROWS, ROWS)
    graph = interleave(lowered.captured.graph) if is_interleaved else lowered.captured.graph
    forward: Events = []
    with mock.patch.dict(overlapped.STEPS, noting(forward)), Products(forward):
        outputs = fx.GraphModule(nn.Module(), graph)(*arguments(lowered.captured, part, tensors))
    backward: Events = []
    with mock.patch.dict(overlapped.STEPS, noting(backward)), Products(backward):
        outputs[lowered.captured.loss].backward()
    return forward, backward


def hidden(events: Events) -> Iterator[bool]:
    """Of each transfer, whether a product is computed between its beginning and the wait for it."""
    for number in range(sum(event.startswith("start") for event in events)):
        begin, end = events.index(f"start {number}"), events.index(f"wait {number}")
        yield "product" in events[begin:end]


@pytest.mark.parametrize("count", [2, 3])
def test_messages_travel_while_others_compute(count: int) -> None:
    forward, backward = run(count, is_interleaved=True)
    *found, last = hidden(forward)
    assert len(found) + 1 == count * BLOCKS, "a sum for each part of each block"
    assert all(found), forward
    assert not last, "behind the last there is nothing left to compute"
    found = list(hidden(backward))
    assert len(found) == count * (BLOCKS - 1), "the batch itself needs no gradient"
    assert all(found), backward


def test_without_an_order_of_its_own_each_is_waited_for_at_once() -> None:
    for events in run(2, is_interleaved=False):
        assert not any(hidden(events)), events
