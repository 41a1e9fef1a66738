"""Tensor parallelism: a graph becomes that of one rank of those that share each layer.

Between capture and cut, the graph of the whole model is completed (`merak.sharding`: Megatron's way, and what the user
annotates) and lowered to this rank's, with its parts of parameters and every collective written out. All that comes
behind, cuts, schedules, recomputation, works on that graph as on any other: the ranks of a replica that have the same
place in each layer are a pipeline, and the values that cross its stages are this rank's.

All graphs of an engine divide parameters as the first does, since their parts are made once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from merak._torch_graphs import fake_as
from merak.engine.layout import Layout
from merak.engine.plan import Plan
from merak.graph.dependence import values_of_inputs
from merak.graph.errors import CaptureError
from merak.graph.normal_form import AliasGroups
from merak.graph.prepare import Prepared
from merak.graph.stages import Cuttable
from merak.sharding.annotations import Annotation, Tactic
from merak.sharding.completion import Completion
from merak.sharding.interleave import interleave
from merak.sharding.local_values import give_values
from merak.sharding.lower import Lowered, lower
from merak.sharding.parts import Place, gather, is_divided, parts, whole_shape
from merak.sharding.program import Layout as TensorLayout
from merak.sharding.program import ShardableGraph
from merak.sharding.sizes import real_size
from merak.sharding.tactics import batch, megatron, sequence

AXIS, TIME = "tp", "time"


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
class Divided:
    """A graph of one rank.

    Attributes:
        prepared: the graph.
    """

    prepared: Prepared
    _whole_outputs: Sequence[Any] | None = None
    _lowered: Lowered | None = None
    _formulas: Mapping[int, Any] | None = None

    @staticmethod
    def not_at_all(prepared: Prepared) -> Divided:
        """A graph that one rank has for itself."""
        return Divided(prepared)

    @property
    def outputs(self) -> Sequence[Any]:
        """What the whole graph gives, by number: fake tensors, or constants. With the dtypes that they have by now:
        under autocast these are others than those captured."""
        own = _outputs(self.prepared)
        if self._whole_outputs is None:
            return own
        pairs = zip(self._whole_outputs, own, strict=True)
        return [fake_as(whole, one.dtype) if isinstance(one, torch.Tensor) else one for whole, one in pairs]

    def whole_output(self, number: int, part: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        """An output, of which this rank has a part or all. Collective over the ranks that share it."""
        if self._lowered is None or number not in self._lowered.outputs:
            return part
        formulas = self._formulas or {}
        layout = [
            [(real_size(size, formulas, sizes), axes) for size, axes in pieces]
            for pieces in self._lowered.outputs[number]
        ]
        return gather(part.contiguous(), layout, self._lowered.places)


class TensorParallel:
    """Divides the graphs of an engine.

    Args:
        annotations: what the user wishes; these come before the plan's.
        trainable: names of the parameters that get gradients.

    Attributes:
        completion: of the first graph, once that is divided.
        division: what follows from it.
        in_order: what gives the graphs of stages their order, where a micro-batch is computed in parts.
    """

    def __init__(
        self, plan: Plan, layout: Layout, annotations: Sequence[Annotation | Tactic], trainable: set[str]
    ) -> None:
        self.completion: Completion | None = None
        self.division = Division()
        self._mesh = {AXIS: plan.tp}
        self._annotations = list(annotations)
        self._wishes = [megatron(AXIS), *([sequence(AXIS)] if plan.sequence_parallel else [])]
        self._time_axis: str | None = None
        self.in_order: Callable[[fx.Graph], fx.Graph] | None = None
        if plan.sub_batches > 1:
            self._time_axis, self.in_order = TIME, interleave
            self._mesh[TIME] = plan.sub_batches
            self._wishes.append(batch(TIME))
        self._trainable = trainable
        self._places: tuple[Place, ...] = ()
        if layout.tensor is not None:
            of_time = [Place(0, 1, "")] * (plan.sub_batches > 1)
            self._places = (Place(layout.tp_rank, layout.tp, str(layout.tensor.group_name)), *of_time)
        self._layouts: dict[str, TensorLayout] = {}

    def divide(self, prepared: Prepared) -> Divided:
        """This rank's graph.

        Raises:
            ValueError: annotations make no sense, or contradict each other.
            CaptureError: parameters would be divided otherwise than in the first graph.
        """
        if not self._places:
            return Divided.not_at_all(prepared)
        graph = ShardableGraph(prepared, self._mesh, self._trainable)
        completion = Completion(graph, [*self._annotations, *self._as_before(graph), *self._wishes])
        lowered = lower(completion, self._places, sums_at_end=True, time_axis=self._time_axis)
        give_values(lowered)
        self._note(completion, lowered)
        groups = AliasGroups(lowered.captured)
        cuttable = Cuttable(lowered.captured, groups, values_of_inputs(lowered.captured, groups))
        divided = Prepared(lowered.captured, prepared.terms, cuttable)
        return Divided(divided, _outputs(prepared), lowered, graph.formulas)

    def in_words(self) -> str:
        """What ranks must agree on: a line for each tensor of the model's."""
        partial = self.division.partial
        return "\n".join(
            f"{name} lies as {layout}{', its gradient in parts' if name in partial else ''}"
            for name, layout in self._layouts.items()
        )

    def explain(self) -> str:
        """How layers are divided, and what travels for it; empty if they are not."""
        return self.completion.explain() if self.completion is not None else ""

    def _note(self, completion: Completion, lowered: Lowered) -> None:
        if self.completion is None:
            self.completion, self._layouts = completion, lowered.layouts
            self.division = Division(lowered.layouts, self._places, lowered.partial)
            return
        for name, layout in lowered.layouts.items():
            if name in self._layouts and layout != self._layouts[name]:
                raise CaptureError(
                    f"another graph of the model (of evaluation, or of a batch with other inputs) would divide {name} "
                    "otherwise over tp than the first: annotate it (`parallelize(..., annotations=[...])`)"
                )
        if added := lowered.partial - self.division.partial:
            raise CaptureError(
                f"another graph of the model would leave ranks with parts of the gradients of {', '.join(added)}, and "
                "the first did not: annotate what it computes with them (`parallelize(..., annotations=[...])`)"
            )

    def _as_before(self, graph: ShardableGraph) -> list[Annotation]:
        """Annotations that divide parameters as the first graph does; of fused ones, in pieces, it follows from others
        how."""
        here = {key for kind, key in graph.captured.sources.values() if kind in ("parameter", "buffer")}
        found = []
        for name, layout in self._layouts.items():
            if name in here and is_divided(layout) and all(len(pieces) == 1 for pieces in layout):
                spec = tuple(AXIS if axes else None for ((_, axes),) in layout)
                found.append(Annotation(name, spec, label=f"as {name} was in the first graph"))
        return found


def warn_if_idle(completion: Completion) -> None:
    """Says so if there is nothing to divide: each rank does all of it then."""
    if not any(
        is_divided(completion.layouts[node]) for node in completion.layouts if completion.graph.is_parameter(node)
    ):
        warnings.warn(
            "nothing of this model is divided over tp: Megatron's way is for pairs of linear layers, as in attention "
            "and feed-forward blocks, and there are none. Every rank computes all of it; use dp, or annotate",
            UserWarning,
            stacklevel=4,
        )


def _outputs(prepared: Prepared) -> list[Any]:
    """Fake tensors, or constants, by number."""
    given: Any = prepared.captured.graph.output_node().args[0]
    return [one.meta["val"] if isinstance(one, fx.Node) else one for one in given]
