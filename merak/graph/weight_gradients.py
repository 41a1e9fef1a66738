"""Gradients of weights, computed later than those of inputs.

A backward has two halves: gradients of a stage's inputs, for which another stage waits, and gradients of its weights,
for which nobody does before the step ends. A schedule with I and W runs them apart. Here the operations whose weights
make most of the work (linear layers, convolutions) become functions whose backward gives the input's gradient at once,
and notes down what remains; all others do both at once, which is always right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import fx
from torch.autograd.function import once_differentiable

from merak.graph.capture import Captured

_aten = torch.ops.aten
Remaining = Callable[[], None]
"""Adds gradients to weights that an earlier backward has left out."""


class WeightGradients:
    """Where backwards note down what they leave out; None to leave nothing out."""

    noted: ClassVar[list[Remaining] | None] = None

    @classmethod
    @contextlib.contextmanager
    def delayed(cls) -> Iterator[list[Remaining]]:
        """Backwards within leave out what they can, and add it to the list given."""
        cls.noted, noted = [], cls.noted
        try:
            yield cls.noted
        finally:
            cls.noted = noted


def delay_weight_gradients(captured: Captured) -> int:
    """Makes the operations of a graph ready for `WeightGradients.delayed`, in place; how many."""
    ready = [node for node in captured.graph.nodes if _can_delay(captured, node)]
    for node in ready:
        node.target = _PARTS[node.target][0]
    return len(ready)


def given_and_gives(captured: Captured, node: fx.Node) -> list[fx.Node]:
    """Of an operation whose weights' gradients come later: what it is given, whose value they need, and itself, whose
    gradient they need; of all others nothing."""
    if not _can_delay(captured, node):
        return []
    weights = _PARTS[node.target][1]
    given = [one for index, one in enumerate(node.args) if index not in weights and isinstance(one, fx.Node)]
    return [*given[:1], node]


def _can_delay(captured: Captured, node: fx.Node) -> bool:
    if node.op != "call_function" or node.target not in _PARTS or node.kwargs:
        return False
    weights = [node.args[index] for index in _PARTS[node.target][1] if index < len(node.args)]
    return all(one is None or (isinstance(one, fx.Node) and _is_parameter(captured, one)) for one in weights)


def _is_parameter(captured: Captured, node: fx.Node) -> bool:
    return node.op == "placeholder" and captured.sources[node.name].kind == "parameter"


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x = _as_computed(x)
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias = weight, bias
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias

        def of_weights() -> tuple[torch.Tensor, torch.Tensor]:
            rows = gradient.flatten(0, -2)
            return rows.t() @ x.flatten(0, -2), rows.sum(0)

        of_input = gradient @ weight.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        return of_input, *_now_or_later(ctx.needs_input_grad[1:], (weight, bias), of_weights)


class _Addmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = _as_computed(x)
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias = weight, bias
        return torch.addmm(bias, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias

        def of_weights() -> tuple[torch.Tensor, torch.Tensor]:
            return x.t() @ gradient, gradient.sum(0)

        of_input = gradient @ weight.to(gradient.dtype).t() if ctx.needs_input_grad[1] else None
        needs = ctx.needs_input_grad[2], ctx.needs_input_grad[0]
        of_weight, of_bias = _now_or_later(needs, (weight, bias), of_weights)
        return of_bias, of_input, of_weight


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: Any
    ) -> torch.Tensor:
        x = _as_computed(x)
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias, ctx.settings = weight, bias, settings
        stride, padding, dilation, groups = settings
        result: torch.Tensor = _aten.convolution.default(
            x, weight, bias, stride, padding, dilation, False, [0] * len(padding), groups
        )
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        stride, padding, dilation, groups = ctx.settings

        def parts(mask: list[bool]) -> tuple[Any, Any, Any]:
            sizes = None if bias is None else list(bias.shape)
            return _aten.convolution_backward.default(  # type: ignore[no-any-return]
                gradient,
                x,
                weight.to(gradient.dtype),
                sizes,
                stride,
                padding,
                dilation,
                False,
                [0] * len(padding),
                groups,
                mask,
            )

        of_input = parts([True, False, False])[0] if ctx.needs_input_grad[0] else None
        needs = ctx.needs_input_grad[1:3]
        return (
            of_input,
            *_now_or_later(needs, (weight, bias), lambda: parts([False, True, bias is not None])[1:]),
            *[None] * 4,
        )


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    return _Linear.apply(x, weight, bias)


def _addmm(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> Any:
    return _Addmm.apply(bias, x, weight)


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    dims = weight.dim() - 2
    wide = [_each(setting, dims) for setting in (stride, padding, dilation)]
    return _Convolution.apply(x, weight, bias, *wide, groups)


_PARTS: dict[Any, tuple[Callable[..., Any], tuple[int, ...]]] = {
    _aten.linear.default: (_linear, (1, 2)),
    _aten.addmm.default: (_addmm, (0, 2)),
    _aten.conv1d.default: (_convolution, (1, 2)),
    _aten.conv2d.default: (_convolution, (1, 2)),
    _aten.conv3d.default: (_convolution, (1, 2)),
}
"""By operation: what replaces it, and which of its arguments must be parameters."""


def _now_or_later(
    needs: tuple[bool, ...], weights: tuple[torch.Tensor | None, ...], compute: Callable[[], tuple[Any, ...]]
) -> tuple[torch.Tensor | None, ...]:
    """The weights' gradients, or, if they are to be delayed, None for each."""
    if not any(needs):
        return (None,) * len(weights)

    def wanted() -> list[torch.Tensor | None]:
        return [
            gradient.to(weight.dtype) if need and weight is not None else None
            for need, weight, gradient in zip(needs, weights, compute(), strict=True)
        ]

    if WeightGradients.noted is None:
        return tuple(wanted())

    def add() -> None:
        with torch.no_grad():
            for weight, gradient in zip(weights, wanted(), strict=True):
                if weight is not None and gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)

    WeightGradients.noted.append(add)
    return (None,) * len(weights)


def _as_computed(x: torch.Tensor) -> torch.Tensor:
    """The input in the precision that autocast computes in, which is the one to be kept."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _each(setting: Any, dims: int) -> list[Any]:
    values = list(setting) if isinstance(setting, list | tuple) else [setting]
    return values * dims if len(values) == 1 else values
