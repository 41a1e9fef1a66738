"""How long a rank's share of a model's operations takes on a device.

Seconds of an operation are the larger of its FLOPs over the device's speed and the bytes that it touches over the
bandwidth of its memory, and a floor. What travels for it adds to its forward or to its backward. Where a micro-batch is
computed in k parts, a part's messages travel while another computes: of all that travels one k-th stays, the last
part's, and more where there is not enough to compute meanwhile.

All operations are timed at once, as vectors by position in the trunk. A search that looks at a few boundaries only has
the operations between them added up, in *segments*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from merak.graph.costs import times_of_inputs
from merak.graph.cutting import GraphCosts, NodeCost, Value
from merak.planner.collective_times import LinearTime
from merak.planner.device import Device
from merak.planner.shared_work import SharedWorkload
from merak.planner.workload import Crossing, Line

Vector = npt.NDArray[np.float64]
Measured = tuple[Vector, Vector]
Links = Callable[[str], LinearTime]
"""Of a collective among the ranks that share a layer, by its kind."""


@dataclass(frozen=True)
class Timed:
    """What a micro-batch of some rows costs, by operation.

    Attributes:
        forward_s, backward_input_s, backward_weight_s, saved_bytes, working_bytes: vectors.
        travel_s: of forward and backward, what messages within layers take that nothing hides.
        shared: whose.
        rows: of the micro-batch.
    """

    forward_s: Vector
    backward_input_s: Vector
    backward_weight_s: Vector
    saved_bytes: Vector
    working_bytes: Vector
    travel_s: Vector
    shared: SharedWorkload
    rows: float

    @property
    def seconds(self) -> float:
        """Of all forwards and backwards."""
        return float(self.forward_s.sum() + self.backward_input_s.sum() + self.backward_weight_s.sum())

    def costs(self) -> GraphCosts:
        """By operation."""
        workload = self.shared.workload
        return self._costs(
            [self.forward_s, self.backward_input_s, self.backward_weight_s, self.saved_bytes],
            self.working_bytes,
            workload.used,
            workload.crossing,
            workload.prepared.cuttable.may_cut,
        )

    def in_segments(self, points: Sequence[int]) -> GraphCosts:
        """By segment between these positions, of which any may be a boundary."""
        used, crossing = self.shared.workload.in_segments(points)
        vectors = [self.forward_s, self.backward_input_s, self.backward_weight_s, self.saved_bytes]
        begins = [0, *points]
        sums = [np.add.reduceat(vector, begins) for vector in vectors]
        until = np.cumsum(self.saved_bytes)
        alive = np.maximum.reduceat(until + self.working_bytes, begins)  # at most, with all before the segment
        working = alive - until[[*(point - 1 for point in points), len(until) - 1]]
        return self._costs(sums, working, used, crossing, [False] + [True] * len(points))

    def _costs(
        self,
        vectors: Sequence[Vector],
        working: Vector,
        used: Sequence[tuple[int, ...]],
        crossing: Sequence[Crossing],
        may_cut: Sequence[bool],
    ) -> GraphCosts:
        columns = zip(*(vector.tolist() for vector in vectors), used, working.tolist(), strict=True)
        workload = self.shared.workload
        sizes = [workload.parameter_bytes[name] * self.shared.parameters.get(name, 1.0) for name in workload.parameters]
        nodes = tuple(
            NodeCost(forward_s, of_inputs, of_weights, saved, parameters, working_bytes=works)
            for forward_s, of_inputs, of_weights, saved, parameters, works in columns
        )
        values = (Value(one.producer, one.consumers, one.nbytes.at(self.rows), one.gradient) for one in crossing)
        return GraphCosts(nodes, tuple(values), tuple(sizes), tuple(may_cut), (), tuple(workload.parameters))


class Timing:
    """Times a shared workload.

    Attributes:
        shared: the operations, as ranks share them.
    """

    def __init__(self, shared: SharedWorkload) -> None:
        self.shared = shared
        workload = shared.workload
        trunk = workload.prepared.cuttable.trunk
        shares = [shared.shares[node] for node in trunk]
        work = [workload.work[node] for node in trunk]
        self._flops = _lines([[(one.flops, share.work)] for one, share in zip(work, shares, strict=True)])
        self._touched = _lines([[(workload.nbytes[one], of) for one, of in share.touched.items()] for share in shares])
        in_backward = [node in workload.gradients for node in trunk]
        self._saved = _lines(
            [
                [(line, of) for (line, _), of in zip(one.saved, share.saved, strict=True)] if kept else []
                for one, share, kept in zip(work, shares, in_backward, strict=True)
            ]
        )
        self._working = _lines([[self._gradient(one) for one in workload.alive[node]] for node in trunk])
        self._computes = np.array([not one.is_view for one in work], dtype=float)
        has_backward = np.array(in_backward, dtype=float)
        self._of_inputs = has_backward * [
            times_of_inputs(node, one.flops.at(1) > 0, workload.gradients)
            for node, one in zip(trunk, work, strict=True)
        ]
        self._of_weights = has_backward * [bool(used) for used in workload.used]
        self._forward = _messages([[(m.kind, m.nbytes, m.of_rows) for m in share.messages] for share in shares])
        self._backward = _messages(
            [[(m.backward_kind, m.backward_nbytes, m.of_rows) for m in share.messages] for share in shares]
        )

    def _gradient(self, node: fx.Node) -> tuple[Line, float]:
        """Of a node or a parameter: its bytes, and a rank's share of them."""
        workload, shared = self.shared.workload, self.shared
        kind, key = workload.prepared.captured.sources.get(node.name, ("", ""))
        if kind == "parameter":
            return workload.nbytes[node], shared.parameters.get(key, 1.0)
        share = shared.shares.get(node)
        return workload.nbytes[node], 1.0 if share is None else share.touched.get(node, share.work)

    def at(
        self,
        rows: float,
        device: Device,
        dtype: torch.dtype,
        links: Links,
        sub_batches: int = 1,
        measured: Measured | None = None,
    ) -> Timed:
        """For a micro-batch of so many rows.

        Args:
            dtype: of products.
            links: what collectives among the ranks take.
            sub_batches: into how many parts a micro-batch is computed.
            measured: seconds of forwards and of backwards; NaN where they are not known.
        """
        lines = self._flops, self._touched, self._saved, self._working
        flops, touched, saved, working = (base + slope * rows for base, slope in lines)
        busy = np.maximum(flops / device.flops_of(dtype), touched / device.memory_bytes_per_s)
        work_s = self._computes * (busy + sub_batches * device.overhead_s)
        of_inputs, of_weights = work_s * self._of_inputs, work_s * self._of_weights
        if measured is not None:
            total = of_inputs + of_weights
            work_s, both = (np.where(np.isnan(one), by, one) for one, by in zip(measured, (work_s, total), strict=True))
            share = np.divide(of_inputs, total, out=np.ones_like(both), where=total > 0)
            of_inputs, of_weights = both * share, both * (1 - share)
        scale = rows / self.shared.workload.rows
        forward, backward = (self._travel(one, scale, links) for one in (self._forward, self._backward))
        exposed = _exposed(float(work_s.sum()), float(forward.sum()), sub_batches)
        return Timed(
            forward_s=work_s + exposed * forward,
            backward_input_s=of_inputs + exposed * backward,
            backward_weight_s=of_weights,
            saved_bytes=saved,
            working_bytes=working,
            travel_s=exposed * (forward + backward),
            shared=self.shared,
            rows=rows,
        )

    def _travel(self, messages: Mapping[str, tuple[Vector, Vector, Vector]], scale: float, links: Links) -> Vector:
        seconds = np.zeros(len(self._computes))
        for kind, (count, of_rows, others) in messages.items():
            latency, per_byte = links(kind)
            seconds += latency * count + per_byte * (scale * of_rows + others)
        return seconds


def _exposed(compute: float, travel: float, parts: int) -> float:
    """Which share of what travels is not hidden behind the other parts' computation."""
    if travel <= 0 or parts == 1:
        return 1.0
    others = (parts - 1) / parts
    return 1 - min(others, others * compute / travel)


def _lines(of_nodes: Sequence[Sequence[tuple[Line, float]]]) -> tuple[Vector, Vector]:
    """Bases and slopes of sums of lines, each multiplied by a share."""
    bases = [sum(line.base * share for line, share in lines) for lines in of_nodes]
    slopes = [sum(line.slope * share for line, share in lines) for lines in of_nodes]
    return np.array(bases, dtype=float), np.array(slopes, dtype=float)


def _messages(of_nodes: Sequence[Sequence[tuple[str, float, bool]]]) -> dict[str, tuple[Vector, Vector, Vector]]:
    """By kind: how many, and bytes, of what grows with the rows and of other things."""
    found: dict[str, tuple[Vector, Vector, Vector]] = {}
    for index, messages in enumerate(of_nodes):
        for kind, nbytes, grows in messages:
            if kind:
                count, of_rows, others = found.setdefault(kind, _zeros(len(of_nodes)))
                count[index] += 1
                (of_rows if grows else others)[index] += nbytes
    return found


def _zeros(count: int) -> tuple[Vector, Vector, Vector]:
    return np.zeros(count), np.zeros(count), np.zeros(count)
