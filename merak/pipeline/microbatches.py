"""A batch as micro-batches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from merak._torch_graphs import bind_symbols, evaluate_size, holds
from merak.graph.capture import Captured
from merak.graph.losses import Terms
from merak.graph.trees import flatten, rebuild


@dataclass
class MicroBatch:
    """What the graphs of all stages need to know of a micro-batch.

    Attributes:
        index: counted over all micro-batches of all data-parallel ranks; random numbers depend on it.
        rows: of the batch.
        inputs: tensors of the batch by path.
        sizes: what the symbols in the graph's shapes stand for.
        scales: what terms of the loss are multiplied with.
    """

    index: int
    rows: int
    inputs: dict[str, torch.Tensor]
    sizes: dict[str, int]
    scales: list[float]


def rows_of(batch: Mapping[str, Any]) -> int:
    """The batch's size: the first dimension of its first tensor that has one."""
    tensors = [leaf for leaf in flatten(dict(batch)).leaves if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if not tensors or tensors[0].shape[0] == 0:
        raise ValueError("the batch has no tensor with rows, so there is nothing to cut into micro-batches")
    return tensors[0].shape[0]


def split(batch: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Cuts a batch into so many micro-batches, whose rows differ by one at most; the first are the larger ones.

    Tensors whose first dimension is the batch's size are cut, all else is in every micro-batch.

    Raises:
        ValueError: there are fewer rows than micro-batches.
    """
    flat = flatten(dict(batch))
    rows = rows_of(batch)
    if rows < count:
        raise ValueError(f"a batch of {rows} rows cannot be cut into {count} micro-batches: give each at least one row")
    parts = [_split_leaf(leaf, rows, count) for leaf in flat.leaves]
    return [rebuild(flat.template, leaves) for leaves in zip(*parts, strict=True)]


def _split_leaf(leaf: Any, rows: int, count: int) -> Sequence[Any]:
    if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == rows:
        return leaf.tensor_split(count)
    return [leaf] * count


def bind(captured: Captured, batch: Mapping[str, Any], index: int) -> MicroBatch:
    """Checks a micro-batch against what was captured.

    Raises:
        ValueError: names every leaf that does not fit, and how.
    """
    flat = flatten(dict(batch))
    leaves = dict(zip(flat.paths, flat.leaves, strict=True))
    misfits = [f"{path}: is missing" for path in [*captured.inputs, *captured.fixed] if path not in leaves]
    misfits += [f"{path}: was not in the example" for path in leaves if path not in captured.inputs | captured.fixed]
    sizes: dict[str, int] = {}
    for path, fake in captured.inputs.items():
        if path in leaves:
            misfits += [f"{path}: {misfit}" for misfit in _misfits(fake, leaves[path], sizes)]
    for path, value in captured.fixed.items():
        if path in leaves and leaves[path] != value:
            misfits.append(f"{path}: is {leaves[path]!r} and was {value!r} in the example, for good")
    misfits = misfits or _broken_conditions(captured, leaves, sizes)
    if misfits:
        raise ValueError(
            "the batch does not fit the example that the model was captured with:\n  " + "\n  ".join(misfits)
        )
    for name, size_of in captured.more_sizes.items():
        sizes[name] = size_of(sizes)
    inputs = {path: leaves[path] for path in captured.inputs}
    return MicroBatch(index, rows_of(batch), inputs, sizes, [])


def _broken_conditions(captured: Captured, leaves: Mapping[str, Any], sizes: dict[str, int]) -> list[str]:
    """What the model, or its inputs, were in the example and are not now, in terms of sizes."""
    names: dict[str, str] = {}
    broken = []
    for path, fake in captured.inputs.items():
        for dim, size in enumerate(fake.shape):
            names.setdefault(str(size), f"{path}.shape[{dim}]")
            if (wanted := evaluate_size(size, sizes)) != (found := leaves[path].shape[dim]):
                broken.append(f"{path}: dimension {dim} is {found} and must be {wanted}, {_named(size, names)}")
    broken += [
        f"the model took its way where {_named(condition, names)}, and would go another now"
        for condition in captured.conditions
        if not holds(condition, sizes)
    ]
    return broken


def _named(expression: Any, names: Mapping[str, str]) -> str:
    """An expression in symbols, with what the user calls them."""
    return re.sub(r"\bs\d+\b", lambda symbol: names.get(symbol[0], symbol[0]), str(expression))


def count_targets(terms: Terms, microbatches: Sequence[MicroBatch]) -> list[float]:
    """Of each term of the loss, the sum of the micro-batches' counts; 0 where there is nothing to count."""
    return [sum(count(one.inputs, one.sizes) for one in microbatches) if count else 0.0 for count in terms.counts]


def _misfits(fake: torch.Tensor, real: Any, sizes: dict[str, int]) -> list[str]:
    if not isinstance(real, torch.Tensor):
        return [f"is {type(real).__name__} and must be a tensor"]
    if real.dtype != fake.dtype:
        return [f"is {real.dtype} and must be {fake.dtype}"]
    if real.dim() != fake.dim():
        return [f"has {real.dim()} dimensions and must have {fake.dim()}"]
    return bind_symbols(fake, real, sizes)
