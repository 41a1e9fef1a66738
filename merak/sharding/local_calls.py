"""What an operation's call becomes on a rank: mostly the same, on the rank's parts.

Different are those that are told sizes (views), those that take items of a divided dimension by number (embeddings,
cross entropy), and products that add a bias: if their sum is not complete, the bias has to wait until it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import fx

from merak.graph.capture import CaptureError
from merak.graph.randomness import SeededCall, operation_of
from merak.sharding import vocabulary, windows
from merak.sharding.dropout import part_of_random
from merak.sharding.experts import ExpertsOfPart
from merak.sharding.parts import range_of
from merak.sharding.program import Operation
from merak.sharding.symbols import chunk_of
from merak.sharding.writers import out_of_place

if TYPE_CHECKING:
    from merak.sharding.lower import _Lowering

_aten = torch.ops.aten
_TOLD_SHAPES = {"view": 1, "reshape": 1, "_unsafe_view": 1, "expand": 1, "broadcast_to": 1, "unflatten": 2}


class LocalCall(NamedTuple):
    """A call, and what is to be done to its result once that is complete: another call, behind the result."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    added: Any = None


Form = Callable[["_Lowering", Operation, dict[str, Any], LocalCall], LocalCall]


def local_call(lowering: _Lowering, operation: Operation, way: dict[str, Any], operands: Sequence[Any]) -> LocalCall:
    """The call of an operation with these operands."""
    node = operation.node
    called = operation_of(node)
    if called is None:
        known = dict(zip(operation.operands, operands, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: known.get(one) or lowering.values[one])
        call = LocalCall(node.target, args, kwargs)
    else:
        call = _call_of_operation(lowering, operation, way, called, operands)
    form = _FORMS.get(operation.name)
    return call if form is None else form(lowering, operation, way, call)


def _call_of_operation(
    lowering: _Lowering,
    operation: Operation,
    way: dict[str, Any],
    called: torch._ops.OpOverload,
    operands: Sequence[Any],
) -> LocalCall:
    """Of one of PyTorch's."""
    node = operation.node
    args, kwargs = _with_operands(lowering, node, called, list(operands))
    target = node.target
    if node in lowering.source.out_of_place:
        written = out_of_place(called)
        target = SeededCall(written, target.name) if isinstance(target, SeededCall) else written
    call = LocalCall(target, args, kwargs)
    return part_of_random(lowering, operation, way, call) if isinstance(target, SeededCall) else call


def _with_operands(
    lowering: _Lowering, node: fx.Node, called: torch._ops.OpOverload, operands: list[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's arguments with other tensors, and the new graph's sizes."""
    args, kwargs = [], {}
    for index, argument in enumerate(called._schema.arguments):
        is_given = index < len(node.args) or argument.name in node.kwargs
        given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        if "Tensor" in str(argument.type):
            count = len(given) if isinstance(given, list | tuple) else 1
            taken, operands = operands[:count], operands[count:]
            value: Any = list(taken) if isinstance(given, list | tuple) else taken[0]
            if isinstance(given, list | tuple):
                value = [new if isinstance(old, fx.Node) else old for old, new in zip(given, taken, strict=True)]
            elif not isinstance(given, fx.Node):
                value = given
        else:
            value = fx.map_arg(given, lowering.values.__getitem__)
        if not is_given:
            continue
        if index < len(node.args):
            args.append(value)
        else:
            kwargs[argument.name] = value
    return tuple(args), kwargs


def _told_shape(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """The shape of the part, where the whole's was given."""
    layout, _ = way["results"][0]
    position = _TOLD_SHAPES[operation.name]
    if not way["divided"] or isinstance(call.args[position], torch.dtype):
        return call
    sizes = [lowering.local_size(pieces) for pieces in layout]
    if operation.name == "unflatten":
        dim, count = operation.arguments["dim"][0], len(operation.arguments["sizes"])
        dim += len(sizes) - count + 1 if dim < 0 else 0
        sizes = sizes[dim : dim + count]
    args = (*call.args[:position], sizes, *call.args[position + 1 :])
    return call._replace(args=args)


def _squeeze(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """The shape of the part: a rank's chunk may be of size 1 where the whole dimension is not."""
    if not way["divided"]:
        return call
    layout, _ = way["results"][0]
    return LocalCall(_aten.reshape.default, (call.args[0], [lowering.local_size(pieces) for pieces in layout]), {})


def _told_split(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    """All sizes: of nothing there would be one part. (Parts that are divided are equal, by the operation's rule.)"""
    if not way["divided"]:
        return call
    dim = operation.arguments.get("dim", [0])[0]
    sizes = [lowering.local_size(layout[dim]) if layout else None for layout, _ in way["results"]]
    known = next(size for size in sizes if size is not None)
    sizes = [known if size is None else size for size in sizes]
    return LocalCall(_aten.split_with_sizes.default, (call.args[0], sizes, dim), {})


def _embedding(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    _, partial = way["results"][0]
    if not partial:
        return call
    weight, ids, *rest = call.args
    table = operation.operands[0]
    assert table is not None
    own = _words(lowering, operation, lowering.source.shape(table)[0], _axes_of(way["operands"][0][0]))
    padding = rest[0] if rest else call.kwargs.get("padding_idx", -1)
    named = {"begin": own.begin, "count": own.length, "words": own.words}
    return LocalCall(vocabulary.embedding_part, (weight, ids, padding), named)


def _words(lowering: _Lowering, operation: Operation, words: int, axes: Sequence[int]) -> vocabulary.Words:
    group = _group_over(lowering, operation, axes)
    return vocabulary.Words(*range_of(words, axes, lowering.places), words, group)


def _cross_entropy(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    if not way["inside"]:
        return call
    given = dict(
        zip(("self", "target", "weight", "reduction", "ignore_index", "label_smoothing"), call.args, strict=False)
    )
    given |= call.kwargs
    scores = operation.operands[0]
    assert scores is not None
    args = (
        given["self"],
        given["target"],
        given.get("reduction", 1),
        given.get("ignore_index", -100),
        given.get("label_smoothing", 0.0),
        tuple(_words(lowering, operation, lowering.source.shape(scores)[1], _axes_of(way["operands"][0][1]))),
    )
    return LocalCall(vocabulary.cross_entropy, args, {})


def _experts(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    if not way["inside"]:
        return call
    (factor,) = way["inside"]
    axes = _axes_of(way["factors"][factor])
    group = _group_over(lowering, operation, axes)
    if axes != sorted(axes):
        raise CaptureError(f"{operation.node.name} would divide experts over parts of an axis that are not in order")
    along = [lowering.places[axis] for axis in axes]
    counts, rank = [call.target.experts], 0
    for place in along:
        counts = [chunk_of(count, place.ranks, one) for count in counts for one in range(place.ranks)]
        rank = rank * place.ranks + place.rank
    return call._replace(target=ExpertsOfPart(call.target, group, counts, rank))


def _axes_of(pieces: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
    """The axes that divide a dimension, the outermost first: not always in the mesh's order."""
    return [axis for _, axes in pieces for axis in axes]


def _group_over(lowering: _Lowering, operation: Operation, axes: Sequence[int]) -> str:
    """The group of the ranks along an axis, or along all parts of one."""
    group = lowering.group_over(axes)
    if group is None:
        names = ", ".join(list(lowering.source.mesh)[axis] for axis in axes)
        what = "experts" if operation.name == "experts" else "a vocabulary"
        raise CaptureError(f"{operation.node.name} would divide {what} over several axes ({names}): give it one")
    return group


def _is_incomplete(operation: Operation, way: dict[str, Any]) -> bool:
    return bool(way["results"][0][1])


def _linear(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    bias = call.args[2] if len(call.args) > 2 else call.kwargs.get("bias")
    if bias is None or not _is_incomplete(operation, way):
        return call
    return LocalCall(call.target, call.args[:2], {}, LocalCall(_aten.add.Tensor, (bias,), {}))


def _addmm(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    if not _is_incomplete(operation, way):
        return call
    added, first, second = call.args
    beta, alpha = call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1)
    target = _aten.mm.default if operation.name == "addmm" else _aten.bmm.default
    return LocalCall(target, (first, second), {}, LocalCall(_scaled_sum, (added, alpha, beta), {}))


def _scaled_sum(product: torch.Tensor, added: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    return (product if alpha == 1 else alpha * product) + (added if beta == 1 else beta * added)


def _convolution(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    call = windows.windowed(lowering, operation, way, call)
    bias = call.args[2] if len(call.args) > 2 else call.kwargs.get("bias")
    if bias is None or not _is_incomplete(operation, way):
        return call
    without = (*call.args[:2], None, *call.args[3:])
    return LocalCall(
        call.target,
        without,
        dict(call.kwargs) | {"bias": None} if len(call.args) <= 2 else call.kwargs,
        LocalCall(_added_to_channels, (bias,), {}),
    )


def _added_to_channels(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x + bias.view(-1, *[1] * (x.dim() - 2))


def _attention(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    return call._replace(target=AttentionOfPart(call.target)) if way["divided"] else call


class AttentionOfPart:
    """Attention of this rank's heads or rows, of which it may have none. Then too it depends on all its arguments: what
    their gradients set off must happen on all ranks, and PyTorch's attention of nothing depends on nothing."""

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self.operation = getattr(attention, "operation", attention)
        self.__name__, self.__module__ = "attention_of_part", __name__

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any) -> Any:
        """What the operation gives."""
        if query.numel() and key.numel():
            return self._attention(query, key, value, *rest, **named)
        mask = rest[0] if rest else named.get("attn_mask")
        nothing = sum(one.sum() for one in (key, value, mask) if one is not None and one.dtype.is_floating_point)
        return query.new_zeros(*query.shape[:-1], value.shape[-1]) + query.sum(-1, keepdim=True) * 0 + nothing * 0


def _batch_norm(lowering: _Lowering, operation: Operation, way: dict[str, Any], call: LocalCall) -> LocalCall:
    return call._replace(target=BatchNormOfPart(call.target)) if way["divided"] else call


class BatchNormOfPart:
    """Batch normalisation of this rank's channels, of which it may have none: PyTorch's takes some."""

    def __init__(self, norm: Any) -> None:
        self._norm = norm
        self.__name__, self.__module__ = "batch_norm_of_part", __name__

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, *rest: Any, **named: Any
    ) -> Any:
        """What the operation gives."""
        if x.numel():
            return self._norm(x, weight, bias, *rest, **named)
        return x + sum(one.sum() for one in (weight, bias) if one is not None) * 0


_FORMS: dict[str, Form] = {
    "batch_norm": _batch_norm,
    **windows.FORMS,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(_TOLD_SHAPES, _told_shape),
    "squeeze": _squeeze,
    "split": _told_split,
    "chunk": _told_split,
    "split_with_sizes": _told_split,
    "embedding": _embedding,
    "cross_entropy_loss": _cross_entropy,
    "experts": _experts,
    "linear": _linear,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
}
