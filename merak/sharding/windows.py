"""Operations along divided dimensions on the interval that a rank needs (`borders`): convolutions, poolings, shifts.

The interval has all that the rank's chunk of the result is computed from, but for padding: only ranks at the ends of
the dimension have some, which is put there before the call, so that the call itself pads nothing along it. What only
moves elements (a slice, a shift) is done once the interval is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from merak.graph.randomness import operation_of
from merak.sharding.parts import is_divided
from merak.sharding.program import Operation, Pieces

if TYPE_CHECKING:
    from merak.sharding.local_calls import LocalCall
    from merak.sharding.lower import _Lowering

_aten = torch.ops.aten
_TO_THE_END = 2**63 - 1


class Padding(NamedTuple):
    """What is put around a tensor: numbers of elements as `constant_pad_nd` takes them, and their value."""

    around: list[int]
    value: float = 0.0


class PaddedCall:
    """A call whose tensors are padded first. Of a dimension of which this rank has nothing, the call makes an element
    of padding, which is then left out: PyTorch refuses to make nothing, and the result depends on all arguments, as it
    does on other ranks.

    Args:
        padding: of arguments, by number.
        nothing: the dimensions of the result of which this rank has nothing.
    """

    def __init__(self, call: Any, padding: dict[int, Padding], nothing: list[int]) -> None:
        self._call, self._padding, self._nothing = call, padding, nothing
        self.operation = getattr(call, "operation", call)
        self.__name__, self.__module__ = "padded_call", __name__

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the operation gives."""
        given = list(args)
        for number, (around, value) in self._padding.items():
            if number < len(given) and given[number] is not None:
                given[number] = _aten.constant_pad_nd.default(given[number], around, value)
        made: torch.Tensor = self._call(*given, **kwargs)
        for dim in self._nothing:
            made = made.narrow(dim, 0, 0)
        return made


def _own_windows(lowering: _Lowering, way: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Windows that are divided, with this rank's number."""
    for window in way["windows"]:
        yield window, lowering.places[window["axis"]].rank


def windowed(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """A convolution or pooling."""
    layout, _ = way["results"][0]
    along, dims, is_pool = _along(lowering, operation), len(layout), "pool" in operation.name
    nothing = [dim for dim in range(1, dims) if _is_empty(lowering, layout[dim])]
    is_empty_sum = not is_pool and _is_empty(lowering, way["operands"][0][1])
    if not way["windows"] and not nothing and not is_empty_sum:
        return call
    called = operation_of(operation.node)
    assert called is not None
    own, by_word = _padding_of(operation, along)
    around = {dim: pair for dim, pair in by_word.items() if any(pair)}
    around |= {window["dim"]: window["padding"][rank] for window, rank in _own_windows(lowering, way)}
    around |= {dim: (along.get(dim, 1), 0) for dim in nothing if dim in along or is_pool}
    if is_empty_sum:
        around[1] = (1, 0)
    for dim in along.keys() & around.keys():
        own[dim - dims] = 0
    call = _with_argument(call, called, "padding", own)
    padding = {}
    if any(map(any, around.values())):
        pairs = [around.get(dim, (0, 0)) for dim in reversed(range(min(around), dims))]
        padding[0] = Padding([one for pair in pairs for one in pair], _value_around(operation))
    if not is_pool and (is_empty_sum or 1 in nothing):  # of weights, channels in and out; of biases
        out = [int(1 in nothing), 0]
        padding |= {1: Padding([0, 0] * (dims - 2) + [int(is_empty_sum), 0, *out]), 2: Padding(out)}
    target = getattr(_aten, operation.name).default if by_word else call.target
    return call._replace(target=PaddedCall(target, padding, nothing) if padding else target)


def _is_empty(lowering: _Lowering, pieces: Pieces) -> bool:
    """Whether this rank has nothing of a dimension."""
    return is_divided([pieces]) and lowering.local_size(pieces) == 0


def _value_around(operation: Operation) -> float:
    """Of which a pooling or convolution sees nothing."""
    x = operation.operands[0]
    assert x is not None
    dtype = x.meta["val"].dtype
    if not operation.name.startswith("max_pool"):
        return 0.0
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _along(lowering: _Lowering, operation: Operation) -> dict[int, int]:
    """The dimensions that windows go along; of each, from how many elements of padding one of the result is made."""
    x, *rest = operation.operands
    assert x is not None
    shape, count = lowering.source.shape(x), int(next(one for one in operation.name if one.isdigit()))
    weight = rest[0] if rest else None
    kernel = operation.arguments["kernel_size"] if weight is None else lowering.source.shape(weight)[-count:]
    dilation = operation.arguments.get("dilation", [1])
    return {
        len(shape) - count + at: dilation[at % len(dilation)] * (kernel[at % len(kernel)] - 1) + 1
        for at in range(count)
    }


def _padding_of(operation: Operation, along: dict[int, int]) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """By dimension that there are windows along, how much the call pads; and what it pads because of the word "same" or
    "valid", by dimension of the tensor, which it is then not told."""
    if "padding" in operation.arguments:
        given = operation.arguments["padding"]
        return (given * len(along) if len(given) == 1 else list(given)), {}
    is_same = "padding=same" in operation.arguments
    return [0] * len(along), {
        dim: ((extent - 1) // 2, extent // 2) if is_same else (0, 0) for dim, extent in along.items()
    }


def _with_argument(call: LocalCall, called: torch._ops.OpOverload, name: str, value: Any) -> LocalCall:
    """Another value for an argument, if it is given at all."""
    position = [argument.name for argument in called._schema.arguments].index(name)
    if name in call.kwargs:
        return call._replace(kwargs=call.kwargs | {name: value})
    if position < len(call.args):
        return call._replace(args=(*call.args[:position], value, *call.args[position + 1 :]))
    return call


def on_something(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """What PyTorch refuses to do to nothing."""
    layout, _ = way["results"][0]
    nothing = [dim for dim in range(1, len(layout)) if _is_empty(lowering, layout[dim])]
    if not nothing:
        return call
    around = [one for dim in reversed(range(len(layout))) for one in (int(dim in nothing), 0)]
    return call._replace(target=PaddedCall(call.target, {0: Padding(around)}, nothing))


def sliced(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """A slice of a divided dimension: its interval begins and ends where the slice does."""
    layout, _ = way["results"][0]
    dim = operation.arguments.get("dim", [0])[0] % len(layout)
    if not is_divided([layout[dim]]):
        return call
    (step,) = operation.arguments.get("step", [1])
    is_interval = any(window["result_dim"] == dim for window in way["windows"])
    start = 0 if is_interval else operation.arguments.get("start", [0])[0] % step
    return call._replace(target=_aten.slice.Tensor, args=(call.args[0], dim, start, _TO_THE_END, step), kwargs={})


def rolled(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """What is left of a shift: along divided dimensions it is in the interval."""
    if not way["divided"]:
        return call
    layout, _ = way["results"][0]
    given = zip(operation.arguments["shifts"], operation.arguments["dims"], strict=True)
    rest = [(shift, dim) for shift, dim in given if not is_divided([layout[dim]])]
    if not rest:
        return call._replace(target=_aten.alias.default, args=call.args[:1], kwargs={})
    shifts, dims = (list(numbers) for numbers in zip(*rest, strict=True))
    return call._replace(target=_aten.roll.default, args=(call.args[0], shifts, dims), kwargs={})


def padded(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """A constant around a tensor: along divided dimensions only ranks at the ends have some."""
    if not way["windows"]:
        return call
    called = operation_of(operation.node)
    assert called is not None
    names = [argument.name for argument in called._schema.arguments]
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    padding, dims = list(operation.arguments["pad"]), len(way["operands"][0])
    for window, rank in _own_windows(lowering, way):
        at = 2 * (dims - 1 - window["dim"])
        padding[at : at + 2] = window["padding"][rank]
    args = (given["self"], padding, given.get("value") or 0)
    return call._replace(target=_aten.constant_pad_nd.default, args=args, kwargs={})


Form = Callable[["_Lowering", Operation, dict[str, Any], "LocalCall"], "LocalCall"]

FORMS: dict[str, Form] = {
    **dict.fromkeys([f"{kind}_pool{dims}d" for kind in ("max", "avg") for dims in (1, 2, 3)], windowed),
    **dict.fromkeys([f"upsample_nearest{dims}d" for dims in (1, 2, 3)], on_something),
    **dict.fromkeys(["upsample_bilinear2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"], on_something),
    "slice": sliced,
    "narrow": sliced,
    "roll": rolled,
    "pad": padded,
    "constant_pad_nd": padded,
}
