"""What `forward` changes in a model: buffers that it assigns to are written to, attributes are put back, and refused
where the next call would compute something else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from merak.graph import CaptureError, capture, prepare
from tests.graph.running import Run, assert_same_gradients
from tests.graph.test_capture import Net

BATCH = {"x": torch.randn(6, 4, generator=torch.Generator().manual_seed(4))}
Forward = Callable[..., Any]


def net_with(forward: Forward, **attributes: Any) -> Net:
    """A model with attributes, of which tensors are buffers."""
    net = Net(forward)
    for name, value in attributes.items():
        if isinstance(value, torch.Tensor):
            net.register_buffer(name, value)
        else:
            setattr(net, name, value)
    return net


# Buffers that are assigned to ----------------------------------------------------------------------------------------


def average(net: Net, x: torch.Tensor) -> Any:
    y = net.linear(x).tanh()
    net.mean = net.mean * 0.9 + y.detach().mean(0) * 0.1
    return {"loss": net.linear(net.linear(y - net.mean)).square().mean()}


def average_without_gradients(net: Net, x: torch.Tensor) -> Any:
    y = net.linear(x * net.mean)
    with torch.no_grad():
        net.mean = net.mean.lerp(y.mean(0), 0.1)
        net.mean += 1
    return {"loss": (net.linear(y) * net.mean).square().mean()}


def exchange(net: Net, x: torch.Tensor) -> Any:
    y = net.linear(x + net.mean)
    net.mean, net.other = net.other, net.mean
    return {"loss": (net.linear(y) * net.mean).square().mean()}


def last(net: Net, x: torch.Tensor) -> Any:
    """Written to before and after it is assigned, and read after all."""
    net.mean.mul_(0.5)
    y = net.linear(x) + net.mean
    z = net.linear(y)
    net.mean = y[0].detach().clone()
    net.mean.add_(1)
    return {"loss": (z + net.mean).square().mean()}


@pytest.mark.parametrize("forward", [average, average_without_gradients, exchange, last])
def test_buffers_that_are_assigned_to(forward: Forward) -> None:
    net = net_with(forward, mean=torch.full((4,), 0.5), other=torch.full((4,), 2.0))
    plain = net_with(forward, mean=torch.full((4,), 0.5), other=torch.full((4,), 2.0))
    before = net.mean
    prepared = prepare(net, {"x": BATCH["x"][:2]})
    assert net.mean is before
    assert net.mean.tolist() == [0.5] * 4
    loss = torch.zeros(())
    for part in BATCH["x"].split(2):
        loss = loss + plain(part)["loss"] / 3
    loss.backward()
    may = [place for place, allowed in enumerate(prepared.cuttable.may_cut) if allowed]
    for boundaries in ((), may[:2], may):
        for recomputed in (None, [1] * (len(boundaries) + 1)):
            made = Run(net, prepared, BATCH, microbatches=3, boundaries=boundaries, recomputed=recomputed)
            assert made.loss == pytest.approx(float(loss.detach()), rel=1e-5)
            torch.testing.assert_close(made.buffers["mean"], plain.mean)
            torch.testing.assert_close(made.buffers["other"], plain.other)
            assert_same_gradients(made.gradients, {name: one.grad for name, one in plain.named_parameters()})


def test_a_buffer_that_is_assigned_to_leaves_places_to_cut() -> None:
    net = net_with(average, mean=torch.zeros(4))
    cuttable = prepare(net, BATCH).cuttable
    linear = [place for place, node in enumerate(cuttable.trunk) if "linear" in str(node.target)]
    assert [cuttable.may_cut[place] for place in linear] == [False, True, True]


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda net, x: setattr(net, "mean", x), r"float32 of shape \(s\d+, 4\) takes the place of torch.float32"),
        (
            lambda net, x: setattr(net, "mean", x[0, :2]),
            r"of shape \(2\) takes the place of torch.float32 of shape \(4\)",
        ),
        (lambda net, x: setattr(net, "mean", x[0].double()), "float64 of shape"),
        (lambda net, x: setattr(net, "mean", None), "NoneType takes the place of a tensor"),
        (lambda net, x: setattr(net.linear, "mean", x[0]), "other modules have the same buffer"),
    ],
)
def test_assignments_that_no_buffer_can_follow(forward: Forward, why: str) -> None:
    def change(net: Net, x: torch.Tensor) -> Any:
        forward(net, x)
        return {"loss": net.linear(x).mean()}

    net = net_with(change, mean=torch.zeros(4))
    net.linear.register_buffer("mean", net.mean)
    with pytest.raises(CaptureError, match=why) as caught:
        capture(net, BATCH)
    assert "assigns to its buffer " in str(caught.value)
    assert "`self.mean.copy_(...)`" in str(caught.value)
    assert torch.equal(net.mean, torch.zeros(4))


# Attributes that change ----------------------------------------------------------------------------------------------


def counts(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.calls += 1
    return y * net.calls


def lists(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.history.append(1)
    return y * len(net.history)


def deep(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.config.seen["calls"] += 1
    return y * net.config.seen["calls"]


def first_time(net: Net, y: torch.Tensor) -> torch.Tensor:
    if net.first:
        net.first = False
        y = y * 3
    return y


def first_time_in_place(net: Net, y: torch.Tensor) -> torch.Tensor:
    y = y * 1
    if net.first:
        net.first = False
        y.view(-1).mul_(3)
    return y


def state(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.hidden = y.detach().mean(0) if net.hidden is None else net.hidden * 0.5 + y.detach().mean(0)
    return y + net.hidden


def sizes(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.rows += y.shape[0]
    return y * net.rows


def hidden_count(net: Net, y: torch.Tensor) -> torch.Tensor:
    """What is written to a buffer changes."""
    net.calls += 1
    net.mean.mul_(net.calls)
    return y


def new_attribute(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.fresh = getattr(net, "fresh", 0) + 1
    return y * net.fresh


STATES: dict[str, Any] = {"calls": 0, "first": True, "hidden": None, "rows": 0, "mean": torch.ones(4)}


def whole(part: Forward) -> Net:
    def forward(net: Net, x: torch.Tensor) -> Any:
        return {"loss": net.linear(part(net, net.linear(x))).square().mean()}

    config = SimpleNamespace(seen={"calls": 0}, kind=None)
    return net_with(forward, **STATES, history=[], config=config, cache=None, length=0, dictionary={})


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (counts, "calls"),
        (lists, "history"),
        (deep, "config"),
        (first_time, "first"),
        (first_time_in_place, "first"),
        (state, "hidden"),
        (sizes, "rows"),
        (hidden_count, "calls"),
        (new_attribute, "fresh"),
    ],
)
def test_what_makes_calls_differ_is_refused(part: Forward, name: str) -> None:
    net = whole(part)
    with pytest.raises(CaptureError) as caught:
        capture(net, BATCH)
    text = str(caught.value)
    assert f"`forward` changes {name}, and with that the next call computes something else" in text
    assert "register_buffer" in text
    assert_as_before(net)


def assert_as_before(net: Net) -> None:
    assert (net.calls, net.history, net.first, net.hidden, net.rows) == (0, [], True, None, 0)
    assert net.config == SimpleNamespace(seen={"calls": 0}, kind=None)
    assert (net.cache, net.length, net.dictionary) == (None, 0, {})
    assert not hasattr(net, "fresh")
    assert type(net.mean) is torch.Tensor


def counts_for_itself(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.calls += 1
    net.history.append(net.calls)
    return y


def keeps_to_look_at(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.fresh = y
    net.dictionary["y"] = y.detach()
    net.mean.mul_(0.5).add_(y.detach().mean(0))
    return y + net.mean


def caches(net: Net, y: torch.Tensor) -> torch.Tensor:
    if net.cache is None:
        table = torch.zeros(4)
        table[::2] = torch.arange(2).sin()
        net.cache = table
    return y + net.cache


def caches_by_size(net: Net, y: torch.Tensor) -> torch.Tensor:
    if net.cache is None or y.shape[0] > net.length:
        net.length = y.shape[0]
        net.cache = torch.arange(net.length)[:, None].cos()
    return y + net.cache[: y.shape[0]]


def caches_in_a_buffer(net: Net, y: torch.Tensor) -> torch.Tensor:
    if "fresh" not in net._buffers:
        net.register_buffer("fresh", torch.arange(4).cos(), persistent=False)
    return y + net.fresh


def decides_for_good(net: Net, y: torch.Tensor) -> torch.Tensor:
    """As Hugging Face's `problem_type`; and `to` gives its argument."""
    y = y.to(torch.float32) + net.linear.weight.to(torch.float32).sum() + net.mean.contiguous()
    if net.config.kind is None:
        net.config.kind = "real" if y.is_floating_point() else "integer"
    return y * 2 if net.config.kind == "real" else y


def sets_the_same(net: Net, y: torch.Tensor) -> torch.Tensor:
    net.calls, net.first, net.history = 0, True, []
    return y


@pytest.mark.parametrize(
    "part",
    [
        counts_for_itself,
        keeps_to_look_at,
        caches,
        caches_by_size,
        caches_in_a_buffer,
        decides_for_good,
        sets_the_same,
    ],
)
def test_what_changes_nothing_is_put_back(part: Forward) -> None:
    net = whole(part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared = prepare(net, BATCH)
    assert_as_before(net)
    made = Run(net, prepared, BATCH)
    assert made.loss == pytest.approx(float(whole(part)(**BATCH)["loss"].detach()), rel=1e-6)


def test_of_models_that_fail_too() -> None:
    def fails(net: Net, x: torch.Tensor) -> Any:
        net.calls, net.fresh = 5, x
        raise KeyError("no tea")

    net = net_with(fails, calls=0)
    with pytest.raises(CaptureError, match="tea"):
        capture(net, BATCH)
    assert net.calls == 0
    assert not hasattr(net, "fresh")


def test_parts_are_named() -> None:
    class Part(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    net = net_with(lambda net, x: {"loss": net.parts[1](net.linear(x)).mean()})
    net.parts = nn.ModuleList([Part(), Part()])
    with pytest.raises(CaptureError, match=r"`forward` changes parts.1.calls, and"):
        capture(net, BATCH)
    assert "calls" not in vars(net.parts[1])
