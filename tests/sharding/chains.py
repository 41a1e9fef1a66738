"""Random chains of operations that look around in their operands, for tests: as graphs, with their results.

A chain is made from a seed: a tensor, and one to three of convolutions, poolings, slices, shifts, flips, paddings and
concatenations, with any sizes, strides, paddings and dilations for which they are defined. Its values are computed as
it is made.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import fx

from merak.graph.capture import Captured, Source
from merak.graph.dependence import values_of_inputs
from merak.graph.losses import Terms
from merak.graph.normal_form import AliasGroups
from merak.graph.prepare import Prepared
from merak.graph.stages import Cuttable

aten = torch.ops.aten


class Chain:
    """A graph of a few operations.

    Attributes:
        operands: by name; those called `input...` are as free as a batch's, the others are parameters.
        result: the last operation.
        of_result: a gradient for it.
        gradients: that it gives the operands.
        divisible: the tensor that it begins with, and all results, but for what depends on the batch alone.
    """

    def __init__(self, seed: int) -> None:
        self._choice, self._generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.graph = fx.Graph()
        self.operands: dict[str, torch.Tensor] = {}
        self.divisible: list[fx.Node] = []
        self._sources: dict[str, Source] = {}
        self._made: list[str] = []
        self._dims = self._choice.choice([1, 2, 2, 2, 3])
        shape = [self._choice.randint(1, 3), self._choice.choice([2, 4])]
        shape += [self._choice.randint(1, 13) for _ in range(self._dims)]
        now = self._operand("input" if self._choice.random() < 0.2 else "x", shape)
        self.divisible.append(now)
        for _ in range(self._choice.choice([1, 1, 2, 3])):
            now = self._choice.choice(KINDS)(self, now)
            self.divisible.append(now)
        self.result = now
        self._finish()

    def __str__(self) -> str:
        first = next(iter(self.operands.values()))
        return f"{list(first.shape)} -> " + " -> ".join(self._made)

    def _operand(self, name: str, shape: list[int]) -> fx.Node:
        with_gradient = not name.startswith("input")
        name = f"{name}{len(self.operands)}"
        node = self.graph.placeholder(name)
        tensor = torch.randn(shape, generator=self._generator, dtype=torch.float64)
        self.operands[name] = tensor.requires_grad_(with_gradient)
        self._sources[node.name] = Source("parameter" if with_gradient else "input", name)
        node.meta["val"] = self.operands[name]
        return node

    def _call(self, target: Any, *args: Any) -> fx.Node:
        node = self.graph.call_function(target, args)
        given = fx.map_arg(args, lambda one: one.meta["val"])
        node.meta["val"] = target(*given)
        self._made.append(f"{target}{tuple(one for one in args if not isinstance(one, fx.Node))}")
        return node

    def _finish(self) -> None:
        value = self.result.meta["val"]
        self.graph.output([self.result])
        self.of_result = torch.randn(value.shape, generator=self._generator, dtype=torch.float64)
        self.gradients: dict[str, torch.Tensor | None] = {}
        if value.requires_grad:
            value.backward(self.of_result)
            self.gradients = {key: one.grad for key, one in self.operands.items()}
        inputs = {key: one for key, one in self.operands.items() if not one.requires_grad}
        self.captured = Captured(
            graph=self.graph, sources=self._sources, constants={}, inputs=inputs, fixed={}, outputs=["result"],
            template=None, leaves=[], loss=0, training=True, conditions=[],
        )  # fmt: skip
        groups = AliasGroups(self.captured)
        of_inputs = values_of_inputs(self.captured, groups)
        self.divisible = [node for node in self.divisible if node not in of_inputs]
        self.prepared = Prepared(self.captured, Terms(), Cuttable(self.captured, groups, of_inputs))

    # Operations, each given the value before it.

    def _sizes(self, node: fx.Node) -> list[int]:
        return list(node.meta["val"].shape)

    def _windows(self, sizes: list[int], *, pool: bool) -> tuple[list[int], list[int], list[int], list[int]]:
        """Kernels, strides, paddings and dilations that leave at least one element. Of a pooling every window sees one
        of the tensor's: PyTorch's backward of others writes anywhere."""
        found: tuple[list[int], ...] = ([], [], [], [])
        for size in sizes:
            while True:
                kernel, stride, dilation = (self._choice.randint(1, most) for most in (4, 3, 3))
                padding = self._choice.randint(0, 3 if not pool else 0 if dilation > 1 else kernel // 2)
                if size + 2 * padding >= dilation * (kernel - 1) + 1 and not (pool and kernel > size):
                    break
            for numbers, number in zip(found, (kernel, stride, padding, dilation), strict=True):
                numbers.append(number)
        return found  # type: ignore[return-value]

    def convolution(self, x: fx.Node) -> fx.Node:
        sizes = self._sizes(x)
        groups = self._choice.choice([1, 1, 2])
        kernel, stride, padding, dilation = self._windows(sizes[2:], pool=False)
        outer = 2 * self._choice.randint(1, 2)
        weight = self._operand("weight", [outer, sizes[1] // groups, *kernel])
        bias = self._operand("bias", [outer]) if self._choice.random() < 0.5 else None
        operation = getattr(aten, f"conv{self._dims}d")
        if self._choice.random() < 0.2:
            stride = [1] * self._dims
            return self._call(operation.padding, x, weight, bias, stride, "same", dilation, groups)
        return self._call(operation.default, x, weight, bias, stride, padding, dilation, groups)

    def largest(self, x: fx.Node) -> fx.Node:
        kernel, stride, padding, dilation = self._windows(self._sizes(x)[2:], pool=True)
        ceil = self._choice.random() < 0.3
        return self._call(getattr(aten, f"max_pool{self._dims}d").default, x, kernel, stride, padding, dilation, ceil)

    def mean(self, x: fx.Node) -> fx.Node:
        kernel, stride, padding, _ = self._windows(self._sizes(x)[2:], pool=True)
        ceil, counts = self._choice.random() < 0.2, self._choice.random() < 0.7
        return self._call(getattr(aten, f"avg_pool{self._dims}d").default, x, kernel, stride, padding, ceil, counts)

    def slice(self, x: fx.Node) -> fx.Node:
        sizes = self._sizes(x)
        dim = self._choice.randrange(-self._dims, 0)
        size = sizes[dim]
        start, step = self._choice.randrange(size), self._choice.choice([1, 1, 2, 3])
        end = self._choice.randint(start + 1, size)
        end = self._choice.choice([end, end - size if end < size else 2**63 - 1])
        if step == 1 and self._choice.random() < 0.3:
            return self._call(aten.narrow.default, x, dim, start, self._choice.randint(1, size - start))
        return self._call(aten.slice.Tensor, x, dim, self._choice.choice([start, start - size]), end, step)

    def roll(self, x: fx.Node) -> fx.Node:
        dims = self._choice.sample(range(-self._dims, 0), self._choice.randint(1, min(2, self._dims)))
        return self._call(aten.roll.default, x, [self._choice.randint(-15, 15) for _ in dims], dims)

    def flip(self, x: fx.Node) -> fx.Node:
        return self._call(aten.flip.default, x, self._choice.sample(range(-self._dims, 0), 1))

    def pad(self, x: fx.Node) -> fx.Node:
        sizes = self._sizes(x)[2:]
        padding = []
        for size in sizes[::-1]:
            pair = [self._choice.randint(-2, 4), self._choice.randint(-2, 4)]
            padding += pair if size + sum(pair) >= 1 and min(pair) > -size else [1, 2]
        if self._choice.random() < 0.5:
            return self._call(aten.pad.default, x, padding, "constant", 1.5)
        return self._call(aten.constant_pad_nd.default, x, padding, 0.5)

    def cat(self, x: fx.Node) -> fx.Node:
        dim = self._choice.randrange(2, 2 + self._dims)
        parts = [x]
        for _ in range(self._choice.randint(1, 2)):
            sizes = self._sizes(x)
            sizes[dim] = self._choice.choice([0, 1, 2, 5])
            parts.append(self._operand("other", sizes))
        self._choice.shuffle(parts)
        return self._call(aten.cat.default, parts, dim)

    def upsample(self, x: fx.Node) -> fx.Node:
        operation = getattr(aten, f"upsample_nearest{self._dims}d").vec
        return self._call(operation, x, None, [self._choice.choice([1.0, 2.0, 3.0]) for _ in range(self._dims)])


KINDS = (
    Chain.convolution,
    Chain.convolution,
    Chain.largest,
    Chain.mean,
    Chain.slice,
    Chain.roll,
    Chain.flip,
    Chain.pad,
    Chain.cat,
    Chain.upsample,
)
