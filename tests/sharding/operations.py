"""Random calls of operations, for tests of their rules.

Each maker draws a call from a seed: what it is called with, and how it is called with parts of the same tensors. Values
are small integers where that makes sums exact, so that the order of a sum does not matter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

Tensors = Sequence[torch.Tensor]


@dataclass
class Drawn:
    """A call.

    Attributes:
        run: from operands, and the shapes that the results are to have, to the results.
        arguments: numbers by name, as the rules get them.
        added: which operand is added to a sum once that is complete.
    """

    name: str
    operands: list[torch.Tensor]
    run: Callable[[Tensors, list[torch.Size]], Any]
    arguments: dict[str, list[int]] = field(default_factory=dict)
    added: int | None = None

    def results(self, operands: Tensors, shapes: list[torch.Size]) -> list[torch.Tensor]:
        made = self.run(operands, shapes)
        return list(made) if isinstance(made, list | tuple) else [made]


class Draw:
    """Makes tensors and sizes from a seed."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def size(self) -> int:
        return self.choice.choice([1, 2, 3, 4, 6])

    def sizes(self, least: int, most: int) -> list[int]:
        return [self.size() for _ in range(self.choice.randint(least, most))]

    def whole(self, *shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, generator=self._generator).double()

    def real(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def ids(self, below: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, below, shape, generator=self._generator)

    def broadcast(self, shape: list[int]) -> list[int]:
        """A shape that is broadcast to another."""
        shorter = shape[self.choice.randint(0, len(shape)) :]
        return [1 if self.choice.random() < 0.3 else size for size in shorter]


def elementwise(draw: Draw) -> Drawn:
    shape = draw.sizes(1, 4)
    name, run = draw.choice.choice(
        [
            ("add", torch.add),
            ("mul", torch.mul),
            ("sub", torch.sub),
            ("maximum", torch.maximum),
            ("pow", lambda x, y: torch.pow(x.abs() + 1, y)),
            ("eq", torch.eq),
        ]
    )
    return Drawn(name, [draw.whole(*shape), draw.whole(*draw.broadcast(shape))], lambda given, _: run(*given))


def unary(draw: Draw) -> Drawn:
    name = draw.choice.choice(["relu", "gelu", "tanh", "exp", "neg", "sigmoid", "silu", "clone", "abs"])
    run = getattr(torch, name, None) or getattr(F, name)
    return Drawn(name, [draw.real(*draw.sizes(1, 4))], lambda given, _: run(*given))


def where(draw: Draw) -> Drawn:
    shape = draw.sizes(1, 3)
    operands = [draw.whole(*draw.broadcast(shape)) > 0, draw.whole(*shape), draw.whole(*draw.broadcast(shape))]
    return Drawn("where", operands, lambda given, _: torch.where(*given))


def total(draw: Draw) -> Drawn:
    x = draw.whole(*draw.sizes(1, 4))
    dims = draw.choice.sample(range(x.dim()), draw.choice.randint(0, x.dim()))
    keep = draw.choice.random() < 0.5
    if not dims:
        return Drawn("sum", [x], lambda given, _: given[0].sum())
    return Drawn("sum", [x], lambda given, _: given[0].sum(dims, keepdim=keep), {"dim": dims, "keepdim": [int(keep)]})


def along(draw: Draw) -> Drawn:
    x = draw.real(*draw.sizes(1, 4))
    dim = draw.choice.randrange(-x.dim(), x.dim())
    name = draw.choice.choice(["softmax", "log_softmax", "cumsum", "sort", "amax", "mean"])
    run = getattr(torch, name)
    if name in ("amax", "mean"):
        return Drawn(name, [x], lambda given, _: run(given[0], dim), {"dim": [dim]})
    return Drawn(name, [x], lambda given, _: run(given[0], dim=dim), {"dim": [dim]})


def norm(draw: Draw) -> Drawn:
    shape = draw.sizes(2, 4)
    x, weight, bias = draw.real(*shape), draw.real(shape[-1]), draw.real(shape[-1])
    return Drawn(
        "layer_norm",
        [x, weight, bias],
        lambda given, _: F.layer_norm(given[0], (shape[-1],), given[1], given[2]),
        {"normalized_shape": [shape[-1]]},
    )


def matmul(draw: Draw) -> Drawn:
    batch, m, k, n = draw.sizes(0, 2), draw.size(), draw.size(), draw.size()
    first, second = [*batch, m, k], [*draw.broadcast(batch), k, n]
    if draw.choice.random() < 0.2:
        first, second = [k], [k, n]
    return Drawn("matmul", [draw.whole(*first), draw.whole(*second)], lambda given, _: torch.matmul(*given))


def linear(draw: Draw) -> Drawn:
    k, n = draw.size(), draw.size()
    operands = [draw.whole(*draw.sizes(0, 3), k), draw.whole(n, k)]
    if draw.choice.random() < 0.5:
        return Drawn("linear", operands, lambda given, _: F.linear(*given))
    return Drawn("linear", [*operands, draw.whole(n)], lambda given, _: F.linear(*given), added=2)


def addmm(draw: Draw) -> Drawn:
    m, k, n, b = draw.size(), draw.size(), draw.size(), draw.size()
    if draw.choice.random() < 0.5:
        operands = [draw.whole(*draw.choice.choice([[n], [m, n], [1, n]])), draw.whole(m, k), draw.whole(k, n)]
        return Drawn("addmm", operands, lambda given, _: torch.addmm(*given), added=0)
    operands = [draw.whole(b, draw.choice.choice([1, m]), n), draw.whole(b, m, k), draw.whole(b, k, n)]
    return Drawn("baddbmm", operands, lambda given, _: torch.baddbmm(*given), added=0)


def embedding(draw: Draw) -> Drawn:
    words = draw.size() + 1
    operands = [draw.real(words, draw.size()), draw.ids(words, *draw.sizes(1, 2))]
    return Drawn("embedding", operands, lambda given, _: F.embedding(given[1], given[0]))


def attention(draw: Draw) -> Drawn:
    b, groups, heads, s, t, d = draw.size(), draw.size(), draw.choice.choice([1, 2]), draw.size(), draw.size(), 4
    causal = draw.choice.random() < 0.3
    operands = [draw.real(b, heads * groups, s, d), draw.real(b, heads, t, d), draw.real(b, heads, t, d)]
    if not causal and draw.choice.random() < 0.5:
        shape = [one if draw.choice.random() < 0.6 else 1 for one in (b, heads * groups, s)]
        operands.append(draw.real(*shape, t))

    def run(given: Tensors, _: Any) -> torch.Tensor:
        mask = given[3] if len(given) > 3 else None
        q, k, v = given[0], given[1], given[2]
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)

    return Drawn("scaled_dot_product_attention", operands, run, {"is_causal": [int(causal)]})


def convolution(draw: Draw) -> Drawn:
    b, inner, outer = draw.size(), draw.size(), draw.size()
    operands = [draw.whole(b, inner, 5, 5), draw.whole(outer, inner, 3, 3), draw.whole(outer)]
    return Drawn("conv2d", operands, lambda given, _: F.conv2d(*given), {"groups": [1]}, added=2)


def by_channel(draw: Draw) -> Drawn:
    x = draw.real(draw.size(), draw.size(), 4, 4)
    name = draw.choice.choice(["max_pool2d", "avg_pool2d"])
    return Drawn(name, [x], lambda given, _: getattr(F, name)(given[0], 2), {"kernel_size": [2]})


def loss(draw: Draw) -> Drawn:
    rows, classes = draw.size(), draw.size()
    how = draw.choice.choice(["none", "sum", "mean"])
    number = {"none": 0, "mean": 1, "sum": 2}[how]
    if draw.choice.random() < 0.5:
        operands = [draw.whole(rows, classes), draw.whole(rows, classes)]
        return Drawn("mse_loss", operands, lambda given, _: F.mse_loss(*given, reduction=how), {"reduction": [number]})
    operands = [draw.real(rows, classes), draw.ids(classes, rows)]
    return Drawn(
        "cross_entropy_loss",
        operands,
        lambda given, _: F.cross_entropy(given[0], given[1], reduction=how),
        {"reduction": [number]},
    )


def reshaped(draw: Draw) -> Drawn:
    """Dimensions are split and merged; or anything else of as many elements."""
    parts = [[draw.size() for _ in range(draw.choice.randint(1, 3))] for _ in range(draw.choice.randint(1, 3))]
    apart = [size for part in parts for size in part]
    together = [int(torch.tensor(part).prod()) for part in parts]
    before, after = draw.choice.sample([apart, together], 2)
    if draw.choice.random() < 0.3:
        after = draw.choice.sample(after, len(after))
    whole = torch.Size(after)
    return Drawn("view", [draw.whole(*before)], lambda given, shapes: given[0].reshape(shapes[0] if shapes else whole))


def moved(draw: Draw) -> Drawn:
    x = draw.whole(*draw.sizes(2, 4))
    if draw.choice.random() < 0.5:
        one, other = draw.choice.randrange(-x.dim(), x.dim()), draw.choice.randrange(x.dim())
        arguments = {"dim0": [one], "dim1": [other]}
        return Drawn("transpose", [x], lambda given, _: given[0].transpose(one, other), arguments)
    order = draw.choice.sample(range(x.dim()), x.dim())
    return Drawn("permute", [x], lambda given, _: given[0].permute(order), {"dims": order})


def in_parts(draw: Draw) -> Drawn:
    x = draw.whole(*draw.sizes(1, 3), 6)
    dim, name = x.dim() - 1, draw.choice.choice(["chunk", "split", "unbind", "select", "flip", "roll"])
    count = draw.choice.choice([2, 3, 4])

    def split(given: Tensors, shapes: list[torch.Size]) -> Any:
        return given[0].split([shape[dim] for shape in shapes], dim)

    runs: dict[str, Callable[[Tensors, list[torch.Size]], Any]] = {
        "chunk": split,
        "split": split,
        "unbind": lambda given, _: given[0].unbind(dim),
        "select": lambda given, _: given[0].select(dim, 1),
        "flip": lambda given, _: given[0].flip(dim),
        "roll": lambda given, _: given[0].roll(1, dim),
    }
    if name in ("chunk", "split"):
        sizes = [torch.Size([*x.shape[:-1], size.shape[dim]]) for size in x.chunk(count, dim)]
        return Drawn(name, [x], lambda given, shapes: runs[name](given, shapes or sizes), {"dim": [dim]})
    return Drawn(name, [x], runs[name], {"dim": [dim], "dims": [dim], "shifts": [1]})


def joined(draw: Draw) -> Drawn:
    shape = draw.sizes(1, 3)
    dim = draw.choice.randrange(len(shape))
    other = [draw.size() if at == dim else size for at, size in enumerate(shape)]
    return Drawn(
        "cat", [draw.whole(*shape), draw.whole(*other)], lambda given, _: torch.cat(list(given), dim), {"dim": [dim]}
    )


def gathered(draw: Draw) -> Drawn:
    shape = draw.sizes(2, 3)
    dim = draw.choice.randrange(len(shape))
    return Drawn(
        "gather",
        [draw.whole(*shape), draw.ids(shape[dim], *shape)],
        lambda given, _: given[0].gather(dim, given[1]),
        {"dim": [dim]},
    )


MAKERS: tuple[Callable[[Draw], Drawn], ...] = (
    elementwise,
    unary,
    where,
    total,
    along,
    norm,
    matmul,
    linear,
    addmm,
    embedding,
    attention,
    convolution,
    by_channel,
    loss,
    reshaped,
    moved,
    in_parts,
    joined,
    gathered,
)
