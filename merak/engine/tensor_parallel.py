"""Tensor parallelism: a graph becomes that of one rank of those that share each layer.

Between capture and cut, the graph of the whole model is completed (`merak.sharding`: Megatron's way, and what the user
annotates) and lowered to this rank's, with its parts of parameters and every collective written out. All that comes
behind, cuts, schedules, recomputation, works on that graph as on any other. What crosses stages are values of the whole
graph, each of which a rank has all of or a part.

Pipeline ranks may differ in how many ranks share their layers, their *width*. For each width the graph is completed
once, on all ranks; a rank runs that of its own.

All graphs of an engine divide parameters as the first does, since their parts are made once.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import fx

from merak.engine.divided import Divided, Division
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
from merak.sharding.parts import Place, is_divided
from merak.sharding.program import Layout as TensorLayout
from merak.sharding.program import ShardableGraph
from merak.sharding.tactics import batch, megatron, sequence

AXIS, TIME = "tp", "time"


class Width:
    """Divides graphs over so many ranks.

    Args:
        ranks: how many.
        annotations: what the user wishes; these come before the plan's.
        trainable: names of the parameters that get gradients.
        places: of the rank whose graphs are made.

    Attributes:
        ranks: how many.
        completion: of the first graph, once that is divided.
        division: what follows from it.
    """

    def __init__(
        self,
        ranks: int,
        plan: Plan,
        annotations: Sequence[Annotation | Tactic],
        trainable: set[str],
        places: tuple[Place, ...],
    ) -> None:
        self.ranks = ranks
        self.completion: Completion | None = None
        self.division = Division()
        self._mesh = {AXIS: ranks}
        self._annotations = list(annotations)
        self._wishes = [megatron(AXIS), *([sequence(AXIS)] if plan.sequence_parallel else [])]
        self._time_axis: str | None = None
        if plan.sub_batches > 1:
            self._time_axis = TIME
            self._mesh[TIME] = plan.sub_batches
            self._wishes.append(batch(TIME))
        self._trainable, self._places = trainable, places
        self._layouts: dict[str, TensorLayout] = {}
        self._completed: tuple[Prepared, Completion] | None = None

    def divide(self, whole: Prepared, boundaries: Sequence[int]) -> Divided:
        """See `TensorParallel.divide`."""
        completion = self._complete(whole)
        position = whole.cuttable.position
        lowered = lower(
            completion,
            self._places,
            sums_at_end=True,
            time_axis=self._time_axis,
            stage_of=lambda node: bisect_right(boundaries, position[node]),
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
            wishes = [*self._annotations, *self._as_before(graph), *self._wishes]
            self._completed = whole, Completion(graph, wishes)
        return self._completed[1]

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


class TensorParallel:
    """Divides the graphs of an engine.

    Args:
        annotations: what the user wishes; these come before the plan's.
        trainable: names of the parameters that get gradients.

    Attributes:
        in_order: what gives the graphs of stages their order, where a micro-batch is computed in parts.
    """

    def __init__(
        self, plan: Plan, layout: Layout, annotations: Sequence[Annotation | Tactic], trainable: set[str]
    ) -> None:
        self.in_order: Callable[[fx.Graph], fx.Graph] | None = interleave if plan.sub_batches > 1 else None
        self._own = layout.tp
        self._ranks_of_pipeline = plan.widths
        of_time = [Place(0, 1, "")] * (plan.sub_batches > 1)
        self._widths: dict[int, Width] = {}
        for ranks in sorted(set(plan.widths) - {1}):
            place = Place(0, ranks, "")  # what stages of other ranks cost is asked of their first
            if ranks == self._own:
                assert layout.tensor is not None, "ranks that share layers have a group"
                place = Place(layout.tp_rank, ranks, str(layout.tensor.group_name))
            self._widths[ranks] = Width(ranks, plan, annotations, trainable, (place, *of_time))

    @property
    def completions(self) -> dict[int, Completion]:
        """Of the first graph, by how many ranks share it."""
        found = {ranks: width.completion for ranks, width in self._widths.items()}
        return {ranks: one for ranks, one in found.items() if one is not None}

    @property
    def division(self) -> Division:
        """What of the model's tensors this rank has."""
        return self._widths[self._own].division if self._own in self._widths else Division()

    def divide(self, whole: Prepared, boundaries: Sequence[int] = (), ranks: int | None = None) -> Divided:
        """This rank's graph, or that of a rank in another stage.

        Args:
            boundaries: positions in the whole trunk where stages begin. What operations need in other layouts is made
                once a stage.
            ranks: how many share layers there.

        Raises:
            ValueError: annotations make no sense, or contradict each other.
            CaptureError: parameters would be divided otherwise than in the first graph.
        """
        width = self._widths.get(self._own if ranks is None else ranks)
        return Divided(whole, whole) if width is None else width.divide(whole, boundaries)

    def in_words(self) -> str:
        """What ranks must agree on."""
        return "\n".join(line for width in self._widths.values() for line in width.in_words())

    def explain(self) -> str:
        """How layers are divided, and what travels for it; empty if they are not."""
        texts = []
        for ranks, completion in self.completions.items():
            if len(set(self._ranks_of_pipeline)) > 1:
                where = [str(rank) for rank, width in enumerate(self._ranks_of_pipeline) if width == ranks]
                texts.append(f"\non pipeline ranks {', '.join(where)}:")
            texts.append(completion.explain(remedies=False))
        return "\n".join(texts)


def warn_if_idle(completions: Iterable[Completion]) -> None:
    """Says so if there is nothing to divide: each rank does all of it then."""
    if not any(
        is_divided(one.layouts[node]) for one in completions for node in one.layouts if one.graph.is_parameter(node)
    ):
        warnings.warn(
            "nothing of this model is divided over tp: Megatron's way is for pairs of linear layers, as in attention "
            "and feed-forward blocks, and there are none. Every rank computes all of it; use dp, or annotate",
            UserWarning,
            stacklevel=4,
        )
