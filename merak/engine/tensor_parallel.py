"""Tensor parallelism of an engine: a graph becomes that of one rank of those that share each layer.

Between capture and cut, the graph of the whole model becomes this rank's (`merak.sharding.width`). What crosses stages
are values of the whole graph, each of which a rank has all of or a part.

Pipeline ranks may differ in how many ranks share their layers, their *width*. For each width the graph is completed
once, on all ranks; a rank runs that of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

from torch import fx

from merak.engine.layout import Layout
from merak.graph.prepare import Prepared
from merak.planner.plan import Plan
from merak.sharding.annotations import Annotation, Tactic
from merak.sharding.completion import Completion
from merak.sharding.divided import Divided, Division
from merak.sharding.interleave import interleave
from merak.sharding.parts import Place, is_divided
from merak.sharding.width import Width


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
        if annotations and max(plan.widths) == 1:
            warnings.warn(
                "annotations are of ranks that share layers, and in this plan none do: they change nothing (tp=...)",
                UserWarning,
                stacklevel=4,
            )
        self.in_order: Callable[[fx.Graph], fx.Graph] | None = interleave if plan.sub_batches > 1 else None
        self._own = layout.tp
        self._ranks_of_pipeline = plan.widths
        self._widths: dict[int, Width] = {}
        for ranks in sorted(set(plan.widths) - {1}):
            place, groups = Place(0, ranks, ""), None  # what stages of other ranks cost is asked of their first
            if ranks == self._own:
                assert layout.tensor is not None, "ranks that share layers have a group"
                place, groups = Place(layout.tp_rank, ranks, str(layout.tensor.group_name)), layout.groups_of_parts
            self._widths[ranks] = Width(
                ranks,
                annotations,
                trainable,
                place,
                sequence_parallel=plan.sequence_parallel,
                sub_batches=plan.sub_batches,
                groups_of_parts=groups,
            )

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
