"""What one of the ranks that share layers has: of the model's tensors, and of a graph.

A rank's own graph computes what the whole one does, in more operations, or in fewer sizes. Positions in either trunk
name the same place: an operation of the whole one *begins* in the rank's where the first operation for its sake is.
Stages begin only where operations of the whole graph do, so that all ranks agree on them, whatever their graphs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import fake_as
from merak.graph.prepare import Prepared
from merak.sharding.lower import Lowered
from merak.sharding.parts import Place, gather, is_divided, parts, whole_shape
from merak.sharding.program import Layout as TensorLayout
from merak.sharding.program import Pieces
from merak.sharding.sizes import real_size


class Division:
    """What of the model's tensors a rank has.

    Args:
        layouts: of parameters and buffers by name.
        places: this rank's, on the axes of the layouts.
        partial: names of parameters of whose gradients each rank has a part, to be added up.
    """

    def __init__(
        self,
        layouts: Mapping[str, TensorLayout] | None = None,
        places: Sequence[Place] = (),
        partial: frozenset[str] = frozenset(),
    ) -> None:
        self._layouts = {name: layout for name, layout in (layouts or {}).items() if is_divided(layout)}
        self._places, self.partial = places, partial

    def divides(self, name: str) -> bool:
        """Whether this rank has a part only."""
        return name in self._layouts

    def is_first(self, name: str) -> bool:
        """Whether this rank is the first of those that have the same of a tensor."""
        divided = {axis for pieces in self._layouts.get(name, []) for _, axes in pieces for axis in axes}
        return all(place.rank == 0 for axis, place in enumerate(self._places) if axis not in divided)

    def part(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """Of a tensor that is kept as the one of that name: this rank's, in memory of its own where it is a part."""
        return parts(whole, self._layouts[name], self._places).clone() if name in self._layouts else whole

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """The tensor that `part` gave a part of. Collective over the ranks that share it."""
        return gather(part.contiguous(), self._layouts[name], self._places) if name in self._layouts else part

    def shape(self, name: str, part: torch.Tensor) -> list[int]:
        """Of the whole tensor."""
        return whole_shape(self._layouts[name]) if name in self._layouts else list(part.shape)


@dataclass(frozen=True)
class DividedValue:
    """A value of a graph, of which each rank has a part. A division of `merak.pipeline.crossing`."""

    layout: TensorLayout
    places: Sequence[Place]
    formulas: Mapping[int, Any]

    def whole(self, part: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        """All of it. Collective over the ranks that share it."""
        with torch.no_grad():
            return gather(part.contiguous(), self._layout(sizes), self.places)

    def part(self, whole: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        """This rank's."""
        return parts(whole, self._layout(sizes), self.places).clone()

    def shape(self, sizes: dict[str, int]) -> list[int]:
        """Of all of it."""
        return whole_shape(self._layout(sizes))

    def _layout(self, sizes: dict[str, int]) -> TensorLayout:
        def real(pieces: Pieces) -> Pieces:
            return [(real_size(size, self.formulas, sizes), axes) for size, axes in pieces]

        return [real(pieces) for pieces in self.layout]


@dataclass(frozen=True)
class Divided:
    """A graph of one rank.

    Attributes:
        prepared: the graph.
        whole: the one that it comes from; the same where a rank has its layers for itself.
        lowered: how it came from that.
        formulas: what the sizes in layouts stand for.
    """

    prepared: Prepared
    whole: Prepared
    lowered: Lowered | None = None
    formulas: Mapping[int, Any] | None = None

    @property
    def outputs(self) -> Sequence[Any]:
        """What the whole graph gives, by number: fake tensors, or constants. With the dtypes that they have by now:
        under autocast these are others than those captured."""
        own = _outputs(self.prepared)
        if self.lowered is None:
            return own
        pairs = zip(_outputs(self.whole), own, strict=True)
        return [fake_as(whole, one.dtype) if isinstance(one, torch.Tensor) else one for whole, one in pairs]

    def whole_output(self, number: int, part: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        """An output, of which this rank has a part or all. Collective over the ranks that share it."""
        if self.lowered is None or number not in self.lowered.outputs:
            return part
        return self._value(self.lowered.outputs[number]).whole(part, sizes)

    @cached_property
    def values(self) -> dict[str, DividedValue]:
        """Those of which this rank has a part, by their common names."""
        layouts = {} if self.lowered is None else self.lowered.values
        return {name: self._value(layout) for name, layout in layouts.items()}

    def _value(self, layout: TensorLayout) -> DividedValue:
        assert self.lowered is not None, "what is divided was lowered"
        return DividedValue(layout, self.lowered.places, self.formulas or {})

    # Positions -------------------------------------------------------------------------------------------------------

    @cached_property
    def of_whole(self) -> Sequence[int]:
        """By operation of the rank's trunk: the position in the whole trunk of the one that it is there for."""
        if self.lowered is None:
            return range(len(self.whole.cuttable.trunk))
        position = {node.name: index for index, node in enumerate(self.whole.cuttable.trunk)}
        found: list[int] = []
        for node in self.prepared.cuttable.trunk:
            before = found[-1] if found else 0
            found.append(max(before, position.get(node.meta.get("operation", node.name), before)))
        return found

    def begin(self, position: int) -> int:
        """In the rank's trunk, of an operation of the whole one."""
        return bisect_left(self.of_whole, position)

    def position(self, begin: int) -> int:
        """Of the first operation in the whole trunk that does not begin before this one of the rank's."""
        if begin == len(self.of_whole):
            return len(self.whole.cuttable.trunk)
        position = self.of_whole[begin]
        return position if self.begin(position) == begin else position + 1

    @cached_property
    def may_cut(self) -> list[bool]:
        """By operation of the rank's trunk: whether a stage may begin there."""
        own, whole = self.prepared.cuttable.may_cut, self.whole.cuttable.may_cut
        return [
            may and whole[position] and (index == 0 or self.of_whole[index - 1] != position)
            for index, (may, position) in enumerate(zip(own, self.of_whole, strict=True))
        ]

    def keeps_within(self, boundaries: Sequence[int]) -> bool:
        """Whether nothing but values of the whole graph crosses these positions of its trunk."""
        if self.lowered is None:
            return True
        trunk = self.prepared.cuttable.position
        stage = {node: bisect_right(boundaries, self.of_whole[index]) for node, index in trunk.items()}
        return all(
            "common" in node.meta or all(stage.get(user, stage[node]) == stage[node] for user in node.users)
            for node in trunk
        )


def _outputs(prepared: Prepared) -> list[Any]:
    """Fake tensors, or constants, by number."""
    given: Any = prepared.captured.graph.output_node().args[0]
    return [one.meta["val"] if isinstance(one, fx.Node) else one for one in given]
