"""The ways in which a gradient is all-reduced: merak's methods, and others beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist

import merak.sparse

from .bench import Groups, Way


class Merak:
    """merak.sparse.all_reduce by one method."""

    def __init__(self, method: str, gradient: torch.Tensor, groups: Groups) -> None:
        self.method, self.gradient, self.group = cast(Any, method), gradient, groups["merak"]

    def reset(self) -> None:
        self.sum = None

    def call(self) -> None:
        self.sum = merak.sparse.all_reduce(self.gradient, group=self.group, method=self.method)

    def result(self) -> torch.Tensor:
        assert self.sum is not None
        return self.sum.to_dense()


class Sketch:
    """merak's lossy method, with as many cells as this share of the union's rows; each call a first one, without what
    feedback would have kept."""

    def __init__(self, share: float, gradient: torch.Tensor, groups: Groups) -> None:
        self.gradient, self.group = gradient, groups["merak"]
        rows = merak.sparse.explain(gradient, group=self.group).union_rows
        self.budget = max(1, int(share * rows)) * gradient.size(1) * gradient.element_size()

    def reset(self) -> None:
        self.codec = merak.sparse.SketchCodec(self.budget)

    def call(self) -> None:
        self.sum = merak.sparse.all_reduce(self.gradient, group=self.group, method="sketch", codec=self.codec)

    def result(self) -> torch.Tensor:
        return self.sum.to_dense()


class Sparse:
    """torch.distributed.all_reduce of the sparse gradient over a backend."""

    def __init__(self, backend: str, gradient: torch.Tensor, groups: Groups) -> None:
        self.gradient, self.group = gradient, groups[backend]

    def reset(self) -> None:
        self.sum = self.gradient.clone()

    def call(self) -> None:
        dist.all_reduce(self.sum, group=self.group)

    def result(self) -> torch.Tensor:
        return self.sum.to_dense()


class Dense(Sparse):
    """torch.distributed.all_reduce of the same gradient, made dense before."""

    def __init__(self, backend: str, gradient: torch.Tensor, groups: Groups) -> None:
        super().__init__(backend, gradient.to_dense(), groups)


class TopKGather:
    """A lossy peer: every rank sends its largest elements, a quarter of them, with 4-byte indices, to everyone (Gloo's
    all_gather); all add them up."""

    def __init__(self, gradient: torch.Tensor, groups: Groups) -> None:
        self.gradient, self.group = gradient, groups["gloo"]
        self.count = gradient.coalesce().values().numel() // 4
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.group.size())]
        dist.all_gather(counts, torch.tensor([self.count]), group=self.group)
        self.most = int(max(counts))

    def reset(self) -> None:
        """Nothing is overwritten."""

    def call(self) -> None:
        mine = self.gradient.coalesce()
        flat = mine.values().flatten()
        chosen = flat.abs().topk(self.count, sorted=False).indices
        columns = self.gradient.size(1)
        places = mine.indices()[0][chosen // columns] * columns + chosen % columns
        values = torch.zeros(self.most)
        values[: self.count] = flat[chosen]
        indices = torch.zeros(self.most, dtype=torch.int32)
        indices[: self.count] = places
        all_values = [torch.empty_like(values) for _ in range(self.group.size())]
        all_indices = [torch.empty_like(indices) for _ in range(self.group.size())]
        dist.all_gather(all_values, values, group=self.group)
        dist.all_gather(all_indices, indices, group=self.group)
        self.sum = torch.zeros(self.gradient.shape)
        for value, index in zip(all_values, all_indices, strict=True):
            self.sum.view(-1).index_add_(0, index, value)

    def result(self) -> torch.Tensor:
        return self.sum


class PublishedS2:
    """A lossy peer: S2 Reducer as its authors' code has it, over Gloo. A count sketch of one row, with a quarter as
    many cells as a rank has elements, hashes worked out beforehand; a bitmap of one float a row; both summed by dense
    all-reduces; every element of a row that any rank has is read from its cell."""

    def __init__(self, gradient: torch.Tensor, groups: Groups) -> None:
        self.gradient, self.group = gradient, groups["gloo"]
        elements = gradient.coalesce().values().numel()
        cells = torch.tensor([elements // 4])
        dist.all_reduce(cells, op=dist.ReduceOp.MAX, group=self.group)
        self.cells = int(cells)
        numbers = torch.arange(gradient.numel())
        self.bucket = (numbers * 1_000_003 + 7_919) % 2_147_483_647 % self.cells
        self.sign = ((numbers * 998_244_353 + 12_345) % 2_147_483_647 % 2 * 2 - 1).float()

    def reset(self) -> None:
        """Nothing is overwritten."""

    def call(self) -> None:
        mine = self.gradient.coalesce()
        rows, columns = mine.indices()[0], self.gradient.size(1)
        places = (rows[:, None] * columns + torch.arange(columns)).flatten()
        sketch = torch.zeros(self.cells)
        sketch.index_add_(0, self.bucket[places], mine.values().flatten() * self.sign[places])
        bitmap = torch.zeros(self.gradient.size(0))
        bitmap[rows] = 1
        dist.all_reduce(sketch, group=self.group)
        dist.all_reduce(bitmap, group=self.group)
        union = bitmap.nonzero()[:, 0]
        places = (union[:, None] * columns + torch.arange(columns)).flatten()
        self.union, self.values = union, sketch[self.bucket[places]] * self.sign[places]

    def result(self) -> torch.Tensor:
        result = torch.zeros(self.gradient.shape)
        result[self.union] = self.values.view(-1, self.gradient.size(1))
        return result


SKETCHES = {"sketch, a half": 0.5, "sketch, a quarter": 0.25, "sketch, an eighth": 0.125}
"""merak's lossy ways: cells in terms of the union's rows."""

LOSSY = ("top-k all-gather", "S2 as published", *SKETCHES)
"""Ways whose results are not the sum: their error is reported."""


def _merak(method: str) -> Callable[..., Way]:
    return lambda *arguments: Merak(method, *arguments)


def _sketch(share: float) -> Callable[..., Way]:
    return lambda *arguments: Sketch(share, *arguments)


WAYS: dict[str, Callable[[torch.Tensor, Groups], Way]] = {
    "auto": _merak("auto"),
    "balanced": _merak("balanced"),
    "gather": _merak("gather"),
    "packed": _merak("packed"),
    "dense": _merak("dense"),
    "sketch-exact": _merak("sketch-exact"),
    "gloo sparse": lambda *arguments: Sparse("gloo", *arguments),
    "gloo dense": lambda *arguments: Dense("gloo", *arguments),
    **{name: _sketch(share) for name, share in SKETCHES.items()},
    "top-k all-gather": TopKGather,
    "S2 as published": PublishedS2,
}
