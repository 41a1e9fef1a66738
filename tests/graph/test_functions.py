"""Users' autograd Functions, which keep their backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from merak.graph import CaptureError, capture, prepare
from merak.graph.costs import measure
from merak.pipeline.microbatches import bind
from tests.graph.running import Run, assert_same_gradients, plain_gradients
from tests.graph.test_capture import Net

Forward = Callable[..., Any]
BATCH = {"x": torch.randn(6, 4, generator=torch.Generator().manual_seed(2))}


class Rounded(Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 3


class Scaled(Function):
    """With tensors, a number that depends on sizes, and what is neither; with two outputs, one without gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, how: str, factors: list[float], rows: float) -> Any:
        assert how == "fast"
        ctx.save_for_backward(x, weight)
        ctx.factor = factors[0]
        sign = x.sign()
        ctx.mark_non_differentiable(sign)
        return x * weight * factors[0] / rows, sign

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> Any:
        x, weight = ctx.saved_tensors
        return gradient * weight * 2, (gradient * x).sum(0) * ctx.factor, None, None, None


class Apart(Function):
    """With `setup_context`, and an `apply` of its own."""

    @staticmethod
    def forward(x: torch.Tensor, power: int) -> torch.Tensor:
        return x**power

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient * ctx.saved_tensors[0], None

    @classmethod
    def apply(cls, x: torch.Tensor, power: int = 1) -> Any:
        return super().apply(x, power + 1)


class Same(Function):
    """Gives its argument, in the same memory."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


MODELS: dict[str, Forward] = {}


def model(forward: Forward) -> Forward:
    MODELS[forward.__name__] = forward
    return forward


@model
def rounds(net: Net, x: torch.Tensor) -> Any:
    y = Rounded.apply(net.linear(x) * 4)
    return {"loss": net.linear(y).square().mean()}


@model
def scales(net: Net, x: torch.Tensor) -> Any:
    y, sign = Scaled.apply(net.linear(x), net.linear.bias, "fast", [0.5, 0.1], x.shape[0] / 2)
    y, _ = Scaled.apply(net.linear(y), net.linear.bias, "fast", [2.0], x.shape[0])
    return {"loss": (net.linear(y) * sign).square().mean() * x.shape[0] ** 2}


@model
def raises(net: Net, x: torch.Tensor) -> Any:
    return {"loss": net.linear(Apart.apply(Apart.apply(net.linear(x), 2))).square().mean()}


@model
def gives_the_same(net: Net, x: torch.Tensor) -> Any:
    y = net.linear(x)
    z = Same.apply(y.clone())
    return {"loss": net.linear(z + y).square().mean()}


@model
def under_autocast(net: Net, x: torch.Tensor) -> Any:
    y = net.linear(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = Rounded.apply(net.linear(y) * 4)
    return {"loss": net.linear(y.float()).square().mean()}


@model
def without_gradients(net: Net, x: torch.Tensor) -> Any:
    y = net.linear(x)
    with torch.no_grad():
        y = y + Rounded.apply(net.linear(y))
    return {"loss": net.linear(y).square().mean()}


@model
def checkpointed_anew(net: Net, x: torch.Tensor) -> Any:
    y = checkpoint(lambda z: net.linear(z).tanh(), net.linear(x), use_reentrant=True)
    return {"loss": net.linear(y).square().mean()}


@model
def checkpointed_functions(net: Net, x: torch.Tensor) -> Any:
    y = checkpoint(lambda z: Rounded.apply(net.linear(z) * 4), net.linear(x), use_reentrant=False)
    return {"loss": net.linear(y).square().mean()}


@torch.library.custom_op("merak_tests::rounded", mutates_args=())
def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.round()


rounded.register_fake(torch.empty_like)
rounded.register_autograd(lambda ctx, gradient: gradient * 3)


@model
def custom_operation(net: Net, x: torch.Tensor) -> Any:
    return {"loss": net.linear(rounded(net.linear(x) * 4)).square().mean()}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_functions_own_backward(name: str) -> None:
    net = Net(MODELS[name])
    prepared = prepare(net, {"x": BATCH["x"][:3]})
    measure(prepared.captured, bind(prepared.captured, BATCH, 0).sizes)
    may = [place for place, allowed in enumerate(prepared.cuttable.may_cut) if allowed]
    loss = net(**BATCH)["loss"]
    expected = plain_gradients(net, loss)
    for boundaries in ((), may[1::2]):
        for recomputed in (None, [2] * (len(boundaries) + 1)):
            made = Run(net, prepared, BATCH, boundaries=boundaries, recomputed=recomputed)
            assert made.loss == pytest.approx(float(loss.detach()), rel=1e-5)
            assert_same_gradients(made.gradients, expected)


def test_several_micro_batches() -> None:
    net = Net(rounds)
    made = Run(net, prepare(net, BATCH), BATCH, microbatches=3)
    assert_same_gradients(made.gradients, plain_gradients(net, net(**BATCH)["loss"]))


class Noisy(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        noise = torch.rand_like(x)
        ctx.save_for_backward(noise)
        return x * noise

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient * ctx.saved_tensors[0]


def test_random_numbers_of_functions_are_seeded() -> None:
    net = Net(lambda net, x: {"loss": net.linear(Noisy.apply(net.linear(x))).square().mean()})
    prepared = prepare(net, BATCH)
    kept = Run(net, prepared, BATCH, microbatches=2)
    again = Run(net, prepared, BATCH, microbatches=2, boundaries=[3], recomputed=[3, 1])
    assert kept.losses == again.losses
    assert_same_gradients(again.gradients, kept.gradients, 1e-6)
    assert Run(net, prepared, BATCH, microbatches=2, seed=1).losses != kept.losses


# What a graph could not keep -----------------------------------------------------------------------------------------


class Writes(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class Reaches(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, get: Callable[[], torch.Tensor]) -> torch.Tensor:
        return x * get()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


class Decides(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x.detach().numpy().sum()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class WithModule(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


TABLE = torch.ones(4)


@pytest.mark.parametrize(
    ("function", "apply", "why"),
    [
        (Writes, lambda net, y: Writes.apply(y), "writes to its arguments"),
        (Reaches, lambda net, y: Reaches.apply(y, lambda: net.linear.bias), "a tensor that is not among its arguments"),
        (Reaches, lambda net, y: Reaches.apply(y, lambda: TABLE), "a tensor that is not among its arguments"),
        (WithModule, lambda net, y: WithModule.apply(y, net.linear), "is given a module"),
        (Decides, lambda net, y: Decides.apply(y), "fails on tensors without data"),
        (Rounded, lambda net, y: torch.vmap(Rounded.apply)(y), "inside `torch.func` or `vmap`"),
    ],
)
def test_what_a_graph_could_not_keep_is_refused(function: type, apply: Forward, why: str) -> None:
    def forward(net: Net, x: torch.Tensor) -> Any:
        return {"loss": apply(net, net.linear(x)).square().mean()}

    before = torch.autograd.Function.__dict__["apply"]
    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), BATCH)
    text = str(caught.value)
    assert f"the autograd Function {__name__}.{function.__name__} " in text
    assert why in text
    assert "detach" in text, "what to do"
    assert "torch.library.custom_op" in text
    assert f"{__file__}:" in text, "the place"
    assert torch.autograd.Function.__dict__["apply"] is before


def test_literals_within_functions() -> None:
    class Shifted(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tensor(0.5) + torch.arange(4)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 2

    net = Net(lambda net, x: {"loss": Shifted.apply(net.linear(x)).square().mean()})
    made = Run(net, prepare(net, BATCH), BATCH)
    assert_same_gradients(made.gradients, plain_gradients(net, net(**BATCH)["loss"]))
