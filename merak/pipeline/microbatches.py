"""A batch as micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from merak.graph.capture import Captured
from merak.graph.fitting import fit
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
    """A micro-batch that fits what was captured; else raises ValueError, as `merak.graph.fitting.fit`."""
    fitted = fit(captured, batch)
    return MicroBatch(index, rows_of(batch), fitted.inputs, fitted.sizes, [])


def count_targets(terms: Terms, microbatches: Sequence[MicroBatch]) -> list[float]:
    """Of each term of the loss, the sum of the micro-batches' counts; 0 where there is nothing to count."""
    return [sum(count(one.inputs, one.sizes) for one in microbatches) if count else 0.0 for count in terms.counts]
