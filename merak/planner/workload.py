"""What a model's operations do, for any number of rows: products, bytes, what stays for the backward.

The model is captured once. Its graph is run on fake tensors for two numbers of rows; all that a planner asks of another
number lies on the line through the two: FLOPs and bytes of layers grow with the rows, those of parameters stay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from merak.graph.capture import LossFunction
from merak.graph.costs import (
    Saved,
    alive_in_backward,
    consumers_of,
    is_attention,
    is_view,
    measure,
    nbytes_of,
    parameters_of,
)
from merak.graph.gradients import embedding_tables, nodes_with_gradients
from merak.graph.prepare import Prepared, prepare
from merak.graph.trees import flatten, rebuild
from merak.pipeline.microbatches import bind, rows_of

_WORTH = 0.05
"""The share of all parameters' bytes that tables have at least, where it is worth to ask what sparse sums bring."""
_ROWS = (2, 4)
"""That the graph is run for: no sizes that Python or a model takes for special."""


@dataclass(frozen=True)
class Line:
    """A number that depends on the rows: `base` and so much for each."""

    base: float
    slope: float

    def at(self, rows: float) -> float:
        """For so many rows."""
        return self.base + self.slope * rows

    @staticmethod
    def through(values: Sequence[float]) -> Line:
        """The line through those of both runs."""
        slope = (values[1] - values[0]) / (_ROWS[1] - _ROWS[0])
        return Line(values[0] - slope * _ROWS[0], slope)


@dataclass(frozen=True)
class Work:
    """What an operation does.

    Attributes:
        flops: as torch counts them.
        saved: what autograd keeps, and this is the last operation to need it: bytes, and who keeps what (see
            `merak.graph.costs.Saved`).
        is_view: it computes nothing.
    """

    flops: Line
    saved: tuple[tuple[Line, dict[fx.Node, fx.Node | None]], ...]
    is_view: bool


class Crossing(NamedTuple):
    """What an operation gives to later ones, by their positions in the trunk; see `merak.graph.cutting.Value`."""

    producer: int
    consumers: tuple[int, ...]
    nbytes: Line
    gradient: bool


class Table(NamedTuple):
    """A parameter that only embeddings read.

    Attributes:
        position: in the trunk, of the first embedding.
        rows: of the table.
        lookups: of a batch, by its rows.
    """

    name: str
    position: int
    rows: int
    nbytes: float
    lookups: Line


class Workload:
    """A captured model, as a planner sees it.

    Args:
        model: a plain model, on any device; on "meta" it needs no memory.
        batch: what `model(**batch)` takes, of any number of rows.
        loss_fn: as in `merak.parallelize`.
        autocast: what is computed in, where that is less than the parameters' own dtype.
        fused_attention: attention keeps what it is given and gives, and no matrix of scores, as it is on GPUs. Where
            there is dropout, that of CPUs keeps several.

    Attributes:
        prepared: the graph.
        rows: of the batch.
        trainable: names of the parameters that are trained.
        gradients: the nodes that get gradients.
        work: by operation of the trunk.
        parameters: names of those that the trunk uses; `used` has, by operation, their numbers.
        crossing: what operations give to later ones: producer, consumers, bytes, and whether gradients come back.
        nbytes: of what each node gives.
        alive: by operation of the trunk, whose gradients are alive while its backward runs.
        parameter_bytes: by name.
        tables: those that only embeddings read, whose gradients have few rows.
        has_large_tables: whether sparse sums of their gradients may be worth it.

    Raises:
        CaptureError: the model cannot be captured.
        ValueError: the model takes batches of one size only.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Mapping[str, Any],
        *,
        loss_fn: LossFunction | None = None,
        autocast: torch.dtype | None = None,
        fused_attention: bool = False,
    ) -> None:
        self.prepared: Prepared = prepare(model, batch, loss_fn=loss_fn)
        self.rows, self._batch = rows_of(batch), dict(batch)
        self.trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.parameter_bytes = {name: float(parameter.nbytes) for name, parameter in model.named_parameters()}
        self.gradients = nodes_with_gradients(self.prepared.captured, self.trainable)
        sizes = [self._sizes(batch, rows) for rows in _ROWS]
        runs = [measure(self.prepared.captured, one, autocast) for one in sizes]
        self.nbytes = {
            node: Line.through([nbytes_of(node, one) for one in sizes]) for node in self.prepared.captured.graph.nodes
        }
        self.work = {
            node: Work(
                Line.through([run.flops.get(node, 0) for run in runs]),
                self._saved_fused(node)
                if fused_attention and is_attention(node)
                else tuple(_saved(*(run.saved.get(node, []) for run in runs))),
                is_view(node),
            )
            for node in self.prepared.cuttable.trunk
        }
        numbers: dict[str, int] = {}
        self.used = [
            tuple(numbers.setdefault(name, len(numbers)) for name in parameters_of(self.prepared.captured, node))
            for node in self.prepared.cuttable.trunk
        ]
        self.parameters = list(numbers)
        self.crossing = [
            Crossing(producer, consumers, self.nbytes[node], node in self.gradients)
            for node, producer, consumers in consumers_of(self.prepared.cuttable)
        ]
        self.alive = alive_in_backward(self.prepared.cuttable, self.gradients)
        self.tables = list(self._tables())
        of_all = sum(self.parameter_bytes[name] for name in self.parameters)
        self.has_large_tables = sum(table.nbytes for table in self.tables) >= _WORTH * of_all
        self._in_segments: dict[tuple[int, ...], tuple[list[tuple[int, ...]], list[Crossing]]] = {}

    def _tables(self) -> Iterator[Table]:
        trunk, captured = self.prepared.cuttable.trunk, self.prepared.captured
        for name in sorted(embedding_tables(captured) & self.trainable):
            used = [one for one, node in enumerate(trunk) if name in parameters_of(captured, node)]
            indices = [trunk[position].args[1] for position in used]
            lines = [self.nbytes[one] for one in indices if isinstance(one, fx.Node)]
            itemsize = indices[0].meta["val"].dtype.itemsize
            lookups = Line(sum(one.base for one in lines) / itemsize, sum(one.slope for one in lines) / itemsize)
            yield Table(
                name,
                used[0],
                parameters_of(captured, trunk[used[0]])[name].meta["val"].shape[0],
                self.parameter_bytes[name],
                lookups,
            )

    def _saved_fused(self, node: fx.Node) -> tuple[tuple[Line, dict[fx.Node, fx.Node | None]], ...]:
        """What fused attention keeps; its statistics are too few to count."""
        kept = [one for one in (*node.all_input_nodes, node) if isinstance(one.meta.get("val"), torch.Tensor)]
        return tuple((self.nbytes[one], {node: one}) for one in kept)

    def in_segments(self, points: Sequence[int]) -> tuple[list[tuple[int, ...]], list[Crossing]]:
        """`used` and `crossing` of the segments between these positions, in place of operations."""
        key = tuple(points)
        if key not in self._in_segments:
            spans = zip([0, *points], [*points, len(self.used)], strict=True)
            used = [tuple(dict.fromkeys(one for of in self.used[begin:end] for one in of)) for begin, end in spans]
            crossing = []
            for one in self.crossing:
                segment = bisect_right(points, one.producer)
                if consumers := sorted({bisect_right(points, consumer) for consumer in one.consumers} - {segment}):
                    crossing.append(Crossing(segment, tuple(consumers), one.nbytes, one.gradient))
            self._in_segments[key] = used, crossing
        return self._in_segments[key]

    def batch_of(self, rows: int) -> dict[str, Any]:
        """The batch, with so many rows: its own, over and over."""
        flat = flatten(self._batch)
        index = torch.arange(rows) % self.rows
        leaves = [
            one[index] if isinstance(one, torch.Tensor) and one.dim() and one.shape[0] == self.rows else one
            for one in flat.leaves
        ]
        return dict(rebuild(flat.template, leaves))

    def _sizes(self, batch: Mapping[str, Any], rows: int) -> dict[str, int]:
        """What the graph's symbols stand for in a batch like this, with so many rows."""
        captured = self.prepared.captured
        if not captured.row_symbols:
            raise ValueError(
                f"the model was captured for batches of {self.rows} rows only, so that there is nothing to plan: its "
                "forward asks for that number. Give a batch of another number of rows, or see docs/graph.md on sizes"
            )
        return bind(captured, batch, 0).sizes | dict.fromkeys(captured.row_symbols, rows)


def _saved(few: list[Saved], many: list[Saved]) -> list[tuple[Line, dict[fx.Node, fx.Node | None]]]:
    """Of both runs, one by one: they are of the same graph, which keeps the same."""
    return [(Line.through((a.nbytes, b.nbytes)), a.keepers) for a, b in zip(few, many, strict=True)]
