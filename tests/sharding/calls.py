"""Random calls of PyTorch's operations, as captured graphs have them: of all those that merak has rules for.

Sizes are such that many do not divide. Values are small integers where that makes sums exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tests.sharding.operations import Draw

aten = torch.ops.aten


@dataclass
class Drawn:
    """A call; tensors are among its arguments, in lists too."""

    called: Any
    args: list[Any]

    @property
    def name(self) -> str:
        """As merak's rules have it."""
        return str(self.called._schema.name).removeprefix("aten::")

    @property
    def operands(self) -> list[torch.Tensor]:
        """All tensors."""
        return [one for arg in self.args for one in listed(arg) if isinstance(one, torch.Tensor)]

    def with_operands(self, operands: Sequence[Any]) -> list[Any]:
        """The arguments with others in place of the tensors."""
        remaining = iter(operands)

        def replaced(value: Any) -> Any:
            if isinstance(value, list):
                return [replaced(one) for one in value]
            return next(remaining) if isinstance(value, torch.Tensor) else value

        return [replaced(arg) for arg in self.args]

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """Its results, given operands."""
        return results_of(self.called(*self.with_operands(operands)))

    def __str__(self) -> str:
        shown = self.with_operands([f"<{'x'.join(map(str, one.shape))} {one.dtype}>" for one in self.operands])
        return f"{self.called}({', '.join(map(str, shown))})"


def listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def results_of(made: Any) -> list[Any]:
    """All results that are tensors."""
    return [one for one in listed(made) if isinstance(one, torch.Tensor)]


def names(text: str) -> list[str]:
    """Apart."""
    return text.split()


UNARY = names(
    "abs alias clone contiguous cos detach elu erf exp floor gelu hardsigmoid hardswish hardtanh isfinite isinf isnan "
    "leaky_relu lift_fresh_copy logical_not mish neg relu selu sigmoid sign silu sin softplus square tanh zeros_like "
    "ones_like"
)
POSITIVE = names("log log1p reciprocal rsqrt sqrt")
BINARY = names(
    "add.Tensor sub.Tensor mul.Tensor maximum minimum eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor "
    "logical_and logical_or rsub.Tensor"
)
DIVISIONS = names("div.Tensor remainder.Tensor floor_divide pow.Tensor_Tensor")
BITS = names("bitwise_and.Tensor bitwise_or.Tensor __and__.Tensor __or__.Tensor")
SCALAR = names(
    "add.Scalar sub.Scalar mul.Scalar eq.Scalar ne.Scalar lt.Scalar gt.Scalar clamp_max clamp_min clamp full_like "
    "rsub.Scalar fill.Scalar"
)


def called(name: str) -> Any:
    """An operation by its name; by default the overload of that name."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def unary(draw: Draw) -> Drawn:
    x = draw.real(*draw.sizes(1, 4))
    name = draw.choice.choice(
        [*UNARY, *POSITIVE, "to.dtype", "bitwise_not", "threshold", "pow.Tensor_Scalar", "dropout", "native_dropout"]
    )
    if name in POSITIVE:
        return Drawn(called(name), [x.abs() + 0.5])
    if name == "bitwise_not":
        return Drawn(called(name), [x > 0])
    more: dict[str, list[Any]] = {
        "to.dtype": [torch.float32],
        "threshold": [0.1, -1.0],
        "pow.Tensor_Scalar": [2],
        "dropout": [0.5, False],
        "native_dropout": [0.5, False],
    }
    return Drawn(called(name), [x, *more.get(name, [])])


def binary(draw: Draw) -> Drawn:
    shape = draw.sizes(1, 4)
    name = draw.choice.choice([*BINARY, *DIVISIONS, *BITS])
    x, y = draw.whole(*shape), draw.whole(*draw.broadcast(shape))
    if name in DIVISIONS:
        x, y = x.abs() + 1, y.abs() + 1
    if name in BITS:
        x, y = x > 0, y > 0
    return Drawn(called(name), draw.choice.sample([x, y], 2))


def with_number(draw: Draw) -> Drawn:
    return Drawn(called(draw.choice.choice(SCALAR)), [draw.whole(*draw.sizes(1, 4)), 1.0])


def ternary(draw: Draw) -> Drawn:
    shape = draw.sizes(1, 3)
    x, y, z = draw.whole(*shape), draw.whole(*draw.broadcast(shape)), draw.whole(*draw.broadcast(shape))
    name = draw.choice.choice(
        [
            "where.self",
            "addcmul",
            "addcdiv",
            "lerp.Tensor",
            "lerp.Scalar",
            "masked_fill.Scalar",
            "masked_fill.Tensor",
            "expand",
            "expand_as",
            "type_as",
            "clamp.Tensor",
        ]
    )
    arguments: dict[str, list[Any]] = {
        "where.self": [z > 0, x, y],
        "addcdiv": [x, y, z.abs() + 1],
        "lerp.Scalar": [x, y, 0.5],
        "masked_fill.Scalar": [x, y > 0, 2.0],
        "masked_fill.Tensor": [x, y > 0, torch.tensor(2.0, dtype=torch.float64)],
        "expand": [y, shape],
        "expand_as": [y, x],
        "type_as": [x, y.float()],
    }
    return Drawn(called(name), arguments.get(name, [x, y, z]))


def products(draw: Draw) -> Drawn:
    batch, m, k, n, b = draw.sizes(0, 2), draw.size(), draw.size(), draw.size(), draw.size()
    name = draw.choice.choice(["matmul", "mm", "bmm", "addmm", "baddbmm", "linear", "linear"])
    bias = draw.whole(*draw.choice.choice([[n], [m, n], [1, n]]))
    arguments: dict[str, list[Any]] = {
        "matmul": [draw.whole(*batch, m, k), draw.whole(*draw.broadcast(batch), k, n)],
        "mm": [draw.whole(m, k), draw.whole(k, n)],
        "bmm": [draw.whole(b, m, k), draw.whole(b, k, n)],
        "addmm": [bias, draw.whole(m, k), draw.whole(k, n)],
        "baddbmm": [draw.whole(b, draw.choice.choice([1, m]), n), draw.whole(b, m, k), draw.whole(b, k, n)],
        "linear": [draw.whole(*batch, m, k), draw.whole(n, k), *draw.choice.choice([[], [draw.whole(n)]])],
    }
    if name == "matmul" and draw.choice.random() < 0.2:
        return Drawn(called(name), [draw.whole(k), draw.whole(k, n)])
    return Drawn(called(name), arguments[name])


def reductions(draw: Draw) -> Drawn:
    x = draw.whole(*draw.sizes(1, 4))
    dims = draw.choice.sample(range(x.dim()), draw.choice.randint(1, x.dim()))
    keep, one = draw.choice.random() < 0.5, dims[0]
    name = draw.choice.choice(
        names(
            "sum.dim_IntList sum mean.dim mean amax amin max.dim min.dim max min argmax argmin all.dim any.dim all any "
            "prod.dim_int prod std.correction var.correction logsumexp norm.ScalarOpt_dim linalg_vector_norm"
        )
    )
    arguments: dict[str, list[Any]] = {
        "sum.dim_IntList": [dims, keep],
        "mean.dim": [dims, keep],
        "amax": [dims, keep],
        "amin": [dims, keep],
        "std.correction": [dims],
        "var.correction": [dims],
        "logsumexp": [dims, keep],
        "norm.ScalarOpt_dim": [2.0, dims, keep],
        "linalg_vector_norm": [2.0, dims, keep],
    }
    if name in ("sum", "mean", "max", "min", "all", "any", "prod"):
        return Drawn(called(name), [x])
    if name.startswith(("std", "var")):  # of one number there is none
        return Drawn(called(name), [draw.real(*(2 * size for size in x.shape)), dims])
    return Drawn(called(name), [x, *arguments.get(name, [one, keep])])


def along(draw: Draw) -> Drawn:
    x = draw.real(*draw.sizes(1, 4))
    dim = draw.choice.randrange(-x.dim(), x.dim())
    name = draw.choice.choice(
        names(
            "softmax.int _softmax log_softmax.int _log_softmax cumsum cumprod sort topk argsort logcumsumexp flip roll "
            "glu"
        )
    )
    arguments: dict[str, list[Any]] = {
        "_softmax": [dim, False],
        "_log_softmax": [dim, False],
        "topk": [1, dim],
        "flip": [[dim]],
        "roll": [[1], [dim]],
    }
    if name == "glu":
        x = torch.cat([x, x + 1], dim)
    return Drawn(called(name), [x, *arguments.get(name, [dim])])


def norms(draw: Draw) -> Drawn:
    shape = draw.sizes(2, 4)
    last = draw.choice.randint(1, len(shape) - 1)
    over = shape[-last:]
    x, weight, bias = draw.real(*shape), draw.real(*over), draw.real(*over)
    name = draw.choice.choice(["layer_norm", "layer_norm", "rms_norm", "group_norm", "batch_norm"])
    if name == "layer_norm":
        return Drawn(called(name), [x, over, *draw.choice.choice([[], [weight, bias]])])
    if name == "rms_norm":
        return Drawn(called(name), [x, over, weight])
    channels = draw.choice.choice([2, 4, 6])
    x, weight, bias = draw.real(draw.size() + 1, channels, 3), draw.real(channels), draw.real(channels)
    if name == "group_norm":
        return Drawn(called(name), [x, 2, weight, bias])
    mean, variance = draw.real(channels), draw.real(channels).abs() + 1
    return Drawn(called(name), [x, weight, bias, mean, variance, False, 0.1, 1e-5, False])


def shapes(draw: Draw) -> Drawn:
    """Dimensions are split and merged; or anything else of as many elements."""
    parts = [[draw.size() for _ in range(draw.choice.randint(1, 3))] for _ in range(draw.choice.randint(1, 3))]
    apart = [size for part in parts for size in part]
    together = [math.prod(part) for part in parts]
    before, after = draw.choice.sample([apart, together], 2)
    if draw.choice.random() < 0.3:
        after = draw.choice.sample(after, len(after))
    name = draw.choice.choice(names("view reshape _unsafe_view view_as reshape_as"))
    x = draw.whole(*before)
    return Drawn(called(name), [x, draw.whole(*after) if name.endswith("as") else after])


def moved(draw: Draw) -> Drawn:
    x = draw.whole(*draw.sizes(1, 4))
    one, other = draw.choice.randrange(-x.dim(), x.dim()), draw.choice.randrange(x.dim())
    order = draw.choice.sample(range(x.dim()), x.dim())
    begin, end = sorted([one % x.dim(), other])
    name = draw.choice.choice(
        names(
            "tril triu transpose.int permute unsqueeze squeeze squeeze.dim squeeze.dims "
            "flatten.using_ints unflatten.int"
        )
    )
    arguments: dict[str, list[Any]] = {
        "transpose.int": [one, other],
        "permute": [order],
        "unsqueeze": [one],
        "squeeze.dim": [one],
        "squeeze.dims": [sorted({one % x.dim(), other})],
        "flatten.using_ints": [begin, end],
    }
    if name in ("tril", "triu"):
        return Drawn(called(name), [draw.whole(*draw.sizes(2, 4)), 1])
    if name == "unflatten.int":
        size, rest = draw.size(), draw.size()
        return Drawn(called(name), [draw.whole(*x.shape, size * rest), -1, [size, rest]])
    return Drawn(called(name), [x, *arguments.get(name, [])])


def cut(draw: Draw) -> Drawn:
    x = draw.whole(*draw.sizes(1, 3), 6)
    dim, count = draw.choice.choice([x.dim() - 1, -1]), draw.choice.choice([2, 3, 4])
    name = draw.choice.choice(
        names("slice.Tensor narrow select.int unbind.int split.Tensor chunk split_with_sizes constant_pad_nd pad")
    )
    arguments: dict[str, list[Any]] = {
        "slice.Tensor": [dim, 1, 5],
        "narrow": [dim, 1, 4],
        "select.int": [dim, 1],
        "unbind.int": [dim],
        "split.Tensor": [count, dim],
        "chunk": [count, dim],
        "split_with_sizes": [draw.choice.choice([[3, 3], [1, 2, 3]]), dim],
        "constant_pad_nd": [[1, 2]],
        "pad": [[1, 2]],
    }
    return Drawn(called(name), [x, *arguments[name]])


def joined(draw: Draw) -> Drawn:
    shape = draw.sizes(1, 3)
    dim = draw.choice.randrange(len(shape))
    other = [draw.size() if at == dim else size for at, size in enumerate(shape)]
    if draw.choice.random() < 0.3:
        return Drawn(called("broadcast_tensors"), [[draw.whole(*shape), draw.whole(*draw.broadcast(shape))]])
    return Drawn(called("cat"), [[draw.whole(*shape), draw.whole(*other)], dim])


def looked_up(draw: Draw) -> Drawn:
    shape = draw.sizes(2, 3)
    dim = draw.choice.randrange(len(shape))
    if draw.choice.random() < 0.5:
        return Drawn(called("gather"), [draw.whole(*shape), dim, draw.ids(shape[dim], *shape)])
    words = draw.size() + 1
    return Drawn(called("embedding"), [draw.real(words, draw.size()), draw.ids(words, *draw.sizes(1, 2))])


def attention(draw: Draw) -> Drawn:
    b, heads, s, t, d = draw.size(), draw.choice.choice([2, 3, 4]), draw.size(), draw.size(), 4
    causal = draw.choice.random() < 0.3
    operands = [draw.real(b, heads, s, d), draw.real(b, heads, t, d), draw.real(b, heads, t, d)]
    mask = None if causal or draw.choice.random() < 0.5 else draw.real(b, 1, s, t)
    return Drawn(called("scaled_dot_product_attention"), [*operands, mask, 0.0, causal])


def convolution(draw: Draw) -> Drawn:
    dims = draw.choice.choice([1, 2, 3])
    b, inner, outer = draw.size(), draw.size(), draw.size()
    x, weight = draw.whole(b, inner, *[5] * dims), draw.whole(outer, inner, *[3] * dims)
    return Drawn(called(f"conv{dims}d"), [x, weight, draw.choice.choice([None, draw.whole(outer)])])


def by_channel(draw: Draw) -> Drawn:
    dims = draw.choice.choice([1, 2, 2, 3])
    x = draw.real(draw.size(), draw.size(), *[4] * dims)
    name = draw.choice.choice(
        [f"max_pool{dims}d", f"avg_pool{dims}d", f"upsample_nearest{dims}d", "feature_dropout"]
        + ([f"adaptive_avg_pool{dims}d"] if dims < 3 else [])
        + (["upsample_bilinear2d"] if dims == 2 else [])
    )
    arguments: dict[str, list[Any]] = {
        "feature_dropout": [0.5, False],
        f"upsample_nearest{dims}d": [[8] * dims],
        "upsample_bilinear2d": [[8, 8], False],
    }
    return Drawn(called(name), [x, *arguments.get(name, [[2] * dims])])


def losses(draw: Draw) -> Drawn:
    rows, classes = draw.size(), draw.size()
    how = draw.choice.choice([0, 1, 2])
    x, y = draw.real(rows, classes), draw.real(rows, classes)
    name = draw.choice.choice(
        names(
            "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits "
            "soft_margin_loss kl_div cross_entropy_loss nll_loss"
        )
    )
    if name in ("cross_entropy_loss", "nll_loss"):
        return Drawn(called(name), [x, draw.ids(classes, rows), None, how])
    arguments: dict[str, list[Any]] = {
        "binary_cross_entropy": [x.sigmoid(), y.sigmoid(), None, how],
        "binary_cross_entropy_with_logits": [x, y.sigmoid(), None, None, how],
        "kl_div": [x, y.abs() + 1, how],
    }
    return Drawn(called(name), arguments.get(name, [x, y, how]))


MAKERS: tuple[Callable[[Draw], Drawn], ...] = (
    unary,
    binary,
    with_number,
    ternary,
    products,
    reductions,
    along,
    norms,
    shapes,
    moved,
    cut,
    joined,
    looked_up,
    attention,
    convolution,
    by_channel,
    losses,
)
