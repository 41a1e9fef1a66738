"""Dropout of divided tensors drops what one process drops.

Every rank draws for the whole tensor, from the operation's own seed, and takes its part of what was drawn. That costs
random numbers for all parts, and memory for the whole for a moment; and the numbers of a model do not depend on how it
is divided, as they do not depend on how it is cut. Of attention whose kernel draws within (on CUDA), and of other
random operations, ranks draw numbers of their own for each part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from merak._torch_graphs import is_fake, size_hint
from merak.graph.randomness import SeededCall
from merak.sharding.parts import Place, parts

if TYPE_CHECKING:
    from merak.sharding.local_calls import LocalCall
    from merak.sharding.lower import _Lowering
    from merak.sharding.program import Operation

Axes = tuple[tuple[tuple[int, ...], ...], ...]
"""By dimension, by piece: the axes that divide it."""


class PartOfDropout(SeededCall):
    """A part of a dropout. Called by graphs with the operation's arguments, and the sizes of all pieces of the whole.

    Args:
        call: on the whole tensor.
        axes: how the result is divided.
        order: dimensions of the whole, from major to minor in memory, in which its numbers are drawn.
    """

    def __init__(self, call: SeededCall, axes: Axes, places: Sequence[Place], order: Sequence[int]) -> None:
        super().__init__(call.operation, call.name)
        self._axes, self._places, self._order = axes, tuple(places), tuple(order)

    def __call__(self, x: torch.Tensor, *args: Any, sizes: Sequence[int], **kwargs: Any) -> Any:
        """This rank's part of the result."""
        if is_fake(x):
            return x * torch.empty_like(x)
        whole = _whole_shape(self._axes, sizes)
        ones = x.new_ones([whole[dim] for dim in self._order]).permute(_inverse(self._order))
        factors = super().__call__(ones, *args, **kwargs)
        return x * parts(factors, _layout(self._axes, sizes), self._places)


class PartOfAttention(SeededCall):
    """Attention with dropout, of a part of the heads or rows.

    Args:
        call: on whole tensors.
        axes: how the result is divided; its last dimension is not one of the scores'.
    """

    def __init__(self, call: SeededCall, axes: Axes, places: Sequence[Place]) -> None:
        super().__init__(call.operation, call.name)
        self._axes, self._places = axes[:-1], tuple(places)
        self._own = SeededCall(call.operation, _name_of_part(call.name, axes, places))

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        sizes: Sequence[int],
        **named: Any,
    ) -> Any:
        """This rank's part of the result."""
        if query.device.type != "cpu":
            return self._own(query, key, value, attn_mask, dropout_p, is_causal, **named)
        if is_fake(query):
            return self._own(query, key, value, attn_mask, 0.0, is_causal, **named)
        sizes = sizes[: sum(len(pieces) for pieces in self._axes)]
        whole = [*_whole_shape(self._axes, sizes), key.shape[-2]]
        drawing = SeededCall(torch.ops.aten.dropout.default, self.name)
        kept = drawing(query.new_ones(whole), dropout_p, True) != 0
        kept = parts(kept, _layout(self._axes, sizes), self._places)
        if is_causal:
            attn_mask = kept.new_ones(kept.shape[-2:]).tril()
        return attention_keeping(query, key, value, attn_mask, kept, dropout_p, **named)


def attention_keeping(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    kept: torch.Tensor,
    dropout_p: float,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention that drops what is not `kept` of its weights, computed as PyTorch's own on the CPU does (which takes
    what is kept as well, but warns that only tests should give it): in fp32 where the tensors have less."""
    dtype = query.dtype
    if dtype in (torch.float16, torch.bfloat16):
        query, key, value = query.float(), key.float(), value.float()
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if mask is None:
        weights = scores.softmax(-1)
    else:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        weights = torch.ops.aten._safe_softmax.default(scores, -1)  # zeros where a row sees nothing
    return (weights.masked_fill(~kept, 0) @ (value / (1 - dropout_p))).to(dtype)


def part_of_random(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """The call of a random operation, on parts."""
    seeded, (layout, _) = call.target, way["results"][0]
    if not way["divided"]:
        return call
    axes: Axes = tuple(tuple(tuple(of_piece) for _, of_piece in pieces) for pieces in layout)
    if operation.name in ("dropout", "feature_dropout"):
        made: SeededCall = PartOfDropout(seeded, axes, lowering.places, _order(operation.node.meta["val"]))
    elif operation.name == "scaled_dot_product_attention":
        made = PartOfAttention(seeded, axes, lowering.places)
    else:
        return call._replace(target=SeededCall(seeded.operation, _name_of_part(seeded.name, axes, lowering.places)))
    sizes = [lowering.sizes.stand_for(size) for pieces in layout for size, _ in pieces]
    return call._replace(target=made, kwargs=call.kwargs | {"sizes": sizes})


def _name_of_part(name: str, axes: Axes, places: Sequence[Place]) -> str:
    divided = sorted({axis for pieces in axes for of_piece in pieces for axis in of_piece})
    return name + "".join(f"@{places[axis].rank}" for axis in divided)


def _order(fake: torch.Tensor) -> list[int]:
    """Of a tensor's dimensions, from major to minor in memory."""
    strides = [size_hint(stride) for stride in fake.stride()]
    return sorted(range(fake.dim()), key=lambda dim: -strides[dim])


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _layout(axes: Axes, sizes: Sequence[int]) -> list[list[tuple[int, list[int]]]]:
    given = iter(sizes)
    return [[(next(given), list(of_piece)) for of_piece in pieces] for pieces in axes]


def _whole_shape(axes: Axes, sizes: Sequence[int]) -> list[int]:
    return [math.prod(size for size, _ in pieces) for pieces in _layout(axes, sizes)]
