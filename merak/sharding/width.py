"""Layers of a model divided over a number of ranks: from any of its graphs to that of one of them.

The graph of the whole model is completed (Megatron's way, and what the user annotates comes first) and lowered to a
rank's, with its parts of parameters and every collective written out. What comes behind, cuts, schedules,
recomputation, works on that graph as on any other.

All graphs of a model divide parameters as the first does, since their parts are made once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

from merak.graph.dependence import values_of_inputs
from merak.graph.errors import CaptureError
from merak.graph.normal_form import AliasGroups
from merak.graph.prepare import Prepared
from merak.graph.stages import Cuttable
from merak.sharding.annotations import Annotation, Dim, Tactic, axes_named, listed
from merak.sharding.completion import Completion
from merak.sharding.divided import Divided, Division
from merak.sharding.local_values import give_values
from merak.sharding.lower import Lowered, lower
from merak.sharding.parts import Place, is_divided, places_of
from merak.sharding.program import Layout, ShardableGraph
from merak.sharding.tactics import batch, megatron, sequence

AXIS, TIME = "tp", "time"

GroupsOfParts = Callable[[Sequence[int]], Sequence[str]]


class Width:
    """Divides graphs over so many ranks.

    Args:
        ranks: how many.
        annotations: what the user wishes; these come before Megatron's way.
        trainable: names of the parameters that get gradients.
        place: of the rank whose graphs are made.
        sequence_parallel: divide what Megatron's way leaves whole by positions.
        sub_batches: into how many parts a micro-batch is computed, one after the other.
        groups_of_parts: makes groups along parts of the axis, where annotations or short dimensions ask for them:
            given the parts' sizes, the names of this rank's groups. None for a rank that has no others.

    Attributes:
        ranks: how many.
        completion: of the first graph, once that is divided.
        division: what follows from it.
    """

    def __init__(
        self,
        ranks: int,
        annotations: Sequence[Annotation | Tactic],
        trainable: set[str],
        place: Place,
        *,
        sequence_parallel: bool = False,
        sub_batches: int = 1,
        groups_of_parts: GroupsOfParts | None = None,
    ) -> None:
        self.ranks = ranks
        self.completion: Completion | None = None
        self.division = Division()
        self._mesh = {AXIS: ranks}
        self._annotations = list(annotations)
        self._wishes = [megatron(AXIS), *([sequence(AXIS)] if sequence_parallel else [])]
        self._time_axis: str | None = None
        if sub_batches > 1:
            self._time_axis = TIME
            self._mesh[TIME] = sub_batches
            self._wishes.append(batch(TIME))
        of_time = (Place(0, 1, ""),) * (sub_batches > 1)
        self._trainable, self._place, self._of_time = trainable, place, of_time
        self._groups_of_parts = groups_of_parts
        self._places_on: dict[tuple[str, ...], tuple[Place, ...]] = {tuple(self._mesh): (place, *of_time)}
        self._layouts: dict[str, Layout] = {}
        self._axes: list[str] = []
        self._completed: tuple[Prepared, Completion] | None = None

    def divide(self, whole: Prepared, boundaries: Sequence[int]) -> Divided:
        """This rank's graph of a whole one.

        Args:
            boundaries: positions in the whole trunk where stages begin. What operations need in other layouts is made
                once a stage.

        Raises:
            ValueError: annotations make no sense, or contradict each other.
            CaptureError: parameters would be divided otherwise than in the first graph.
        """
        completion = self._complete(whole)
        position, parts = whole.cuttable.position, tuple(completion.graph.axes(AXIS))
        lowered = lower(
            completion,
            self._places(completion.graph.mesh),
            sums_at_end=True,
            time_axis=self._time_axis,
            stage_of=lambda node: bisect_right(boundaries, position[node]),
            whole_axes={parts: self._place.group} if len(parts) > 1 else {},
        )
        give_values(lowered)
        self._note(completion, lowered)
        groups = AliasGroups(lowered.captured)
        cuttable = Cuttable(lowered.captured, groups, values_of_inputs(lowered.captured, groups))
        prepared = Prepared(lowered.captured, whole.terms, cuttable)
        return Divided(prepared, whole, lowered, completion.graph.formulas)

    def in_words(self) -> Iterator[str]:
        """What ranks must agree on: a line for each tensor of the model's."""
        for name, layout in self._layouts.items():
            partial = ", its gradient in parts" if name in self.division.partial else ""
            yield f"over {self.ranks} ranks {name} lies as {layout}{partial}"

    def _complete(self, whole: Prepared) -> Completion:
        """Of the graph that was divided last the same again."""
        if self._completed is None or self._completed[0] is not whole:
            graph = ShardableGraph(whole, self._mesh, self._trainable)
            for axis, label in axes_named(listed(graph, self._annotations)):
                if axis == TIME:
                    raise ValueError(f"{label}: {TIME!r} is no axis of ranks: annotations are over {AXIS!r}")
            wishes = [*self._annotations, *self._as_before(graph), *self._wishes]
            self._completed = whole, Completion(graph, wishes)
        return self._completed[1]

    def _places(self, mesh: Mapping[str, int]) -> tuple[Place, ...]:
        """This rank's, on the mesh of a completed graph. The first time that parts of the axis are on it, their groups
        are made."""
        axes = tuple(mesh)
        if axes not in self._places_on:
            sizes = {name: ranks for name, ranks in mesh.items() if name != TIME}
            groups = self._groups_of_parts(list(sizes.values())) if self._groups_of_parts else [""] * len(sizes)
            places = places_of(sizes, self._place.rank, dict(zip(sizes, groups, strict=True)))
            self._places_on[axes] = (*places, *self._of_time)
        return self._places_on[axes]

    def _note(self, completion: Completion, lowered: Lowered) -> None:
        if self.completion is None:
            self.completion, self._layouts = completion, lowered.layouts
            self.division = Division(lowered.layouts, self._places(completion.graph.mesh), lowered.partial)
            self._axes = list(completion.graph.mesh)
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
                names = [tuple(self._axes[axis] for axis in axes) for ((_, axes),) in layout]
                spec = tuple(Dim(one, closed=True) if one else None for one in names)
                found.append(Annotation(name, spec, label=f"as {name} was in the first graph"))
        return found
