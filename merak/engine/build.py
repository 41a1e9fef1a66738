"""Makes graphs ready to run: captured, measured, cut, with their messages and schedules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from merak.engine.agreement import check_same, merge_on_all, together
from merak.engine.gradients import Gradients
from merak.engine.layout import Layout
from merak.engine.parameters import Owned
from merak.engine.precision import autocast
from merak.engine.tensor_parallel import TensorParallel
from merak.engine.variants import Variant, names_of, same_boundaries
from merak.graph.capture import LossFunction
from merak.graph.costs import measure
from merak.graph.cutting import Cut
from merak.graph.errors import CaptureError
from merak.graph.keeping import kept_nodes
from merak.graph.prepare import Prepared, prepare
from merak.graph.stages import Stage
from merak.graph.weight_gradients import delay_weight_gradients
from merak.pipeline.crossing import Teams
from merak.pipeline.executor import Executor
from merak.pipeline.messages import Messages
from merak.pipeline.microbatches import bind
from merak.pipeline.schedule import Schedule
from merak.pipeline.stage_runner import StageRunner
from merak.planner.plan import Plan, autocast_dtype
from merak.planner.stage_cut import Candidate, choose_cut, compute_order
from merak.sharding.divided import Divided


class Builder:
    """Makes the graphs of one engine.

    Args:
        model: the plain model.
        tensor_parallel: divides graphs among the ranks that share each layer.
        trainable: names of the parameters that may get gradients.
        loss_fn: as in `parallelize`.

    Attributes:
        cut: where stages begin and what they cost, when `first` has been called.
    """

    cut: Cut

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        layout: Layout,
        tensor_parallel: TensorParallel,
        trainable: set[str],
        loss_fn: LossFunction | None,
        device: torch.device,
    ) -> None:
        self._model, self._plan, self._layout = model, plan, layout
        self._tensor_parallel = tensor_parallel
        self._trainable, self._loss_fn, self._device = trainable, loss_fn, device
        self._autocast = autocast(plan.precision, device)

    def first(self, example: Mapping[str, Any]) -> tuple[Divided, list[Stage]]:
        """The graph of training, cut as the plan wants it. The others follow it."""
        with together("capturing the model, or cutting it,", self._device):
            whole = prepare(self._model, example, training=True, loss_fn=self._loss_fn)
            candidates = {ranks: self._candidate(whole, ranks, example) for ranks in sorted(set(self._plan.widths))}
            chosen = choose_cut(candidates, self._plan, self._trainable)
        # Replicas' examples may have other sizes, for which other cuts are best: all take rank 0's.
        check_same(str(whole.captured.graph), "models", self._device)
        check_same(self._tensor_parallel.in_words(), "divisions of layers", self._device)
        agreed = merge_on_all({"boundaries": chosen.boundaries, "recomputed": chosen.recomputed}, self._device)
        self._reference, self._boundaries, self._recomputed = whole, agreed["boundaries"], agreed["recomputed"]
        self.cut = chosen.cut
        divided = candidates[self._layout.tp].divided
        with together("dividing layers among ranks", self._device):
            if not divided.keeps_within(self._boundaries):
                divided = self._tensor_parallel.divide(whole, self._boundaries)
                self._find_dtypes(divided, example)
            self._stages = self._cut(divided, self._boundaries)
        return divided, self._stages

    def another(self, owned: Owned, gradients: Gradients, example: Mapping[str, Any], training: bool) -> Variant:
        """A graph of another mode, or for other batches."""
        whole = prepare(self._model, example, training=training, loss_fn=self._loss_fn)
        boundaries = same_boundaries(self._reference.cuttable, self._boundaries, self._stages, whole.cuttable)
        divided = self._tensor_parallel.divide(whole, boundaries)
        self._find_dtypes(divided, example)
        stages = self._cut(divided, boundaries, may_be_empty=True)
        _check_owned(stages, self._stages)
        return self.variant(divided, stages, owned, gradients)

    def _candidate(self, whole: Prepared, ranks: int, example: Mapping[str, Any]) -> Candidate:
        divided = self._tensor_parallel.divide(whole, ranks=ranks)
        captured = divided.prepared.captured
        sizes = bind(captured, example, 0).sizes
        dtype = autocast_dtype(self._plan.precision)
        measured = measure(captured, sizes, dtype, self._device.type, self._kept(divided.prepared))
        return Candidate(divided, measured, sizes)

    def _find_dtypes(self, divided: Divided, example: Mapping[str, Any]) -> None:
        """Those of autocast, of a graph's values."""
        if self._plan.precision != "fp32":
            captured = divided.prepared.captured
            sizes = bind(captured, example, 0).sizes
            measure(captured, sizes, autocast_dtype(self._plan.precision), self._device.type)

    def _cut(self, divided: Divided, boundaries: Sequence[int], may_be_empty: bool = False) -> list[Stage]:
        """The stages of all ranks: this rank's as it has them. Where others have other widths, theirs are those of the
        whole graph, by which all know what crosses.

        Args:
            boundaries: in the whole graph's trunk.
        """
        assert divided.keeps_within(boundaries), "what crosses stages has a name that all ranks know"
        training = divided.prepared.captured.training
        trainable = self._trainable if training else set[str]()
        kept = {node.name for node in self._kept(divided.prepared)} if training else set[str]()
        whole = divided.whole.cuttable
        recomputed = self._recomputed if training else [0] * self._plan.n_stages
        ends = [*boundaries, len(whole.trunk)]
        prefixes = [
            divided.begin(min(begin + count, end)) - divided.begin(begin)
            for begin, count, end in zip([0, *boundaries], recomputed, ends, strict=True)
        ]
        of_whole = (
            [] if self._layout.is_even else whole.cut(boundaries, recomputed, trainable, may_be_empty=may_be_empty)
        )
        if training and self._plan.splits_backward:
            delay_weight_gradients(divided.prepared.captured)
        begins = [divided.begin(boundary) for boundary in boundaries]
        in_order = self._tensor_parallel.in_order
        own = divided.prepared.cuttable.cut(
            begins, prefixes, trainable, kept, may_be_empty=may_be_empty, in_order=in_order
        )
        return own if self._layout.is_even else self._merged(own, of_whole)

    def _merged(self, own: Sequence[Stage], of_whole: Sequence[Stage]) -> list[Stage]:
        """This rank's own stages, and the others."""
        rank_of = compute_order(self._plan).stage_to_rank
        for stage, whole in zip(own, of_whole, strict=True):
            if _shown(stage) != _shown(whole):
                raise CaptureError(
                    f"stage {stage.index} cannot be divided over ranks beside stages that are divided otherwise: it "
                    f"would use or send {_shown(stage)}, and in one process does {_shown(whole)}. Give one tp for all"
                )
        here = [rank == self._layout.pp_rank for rank in rank_of]
        return [mine if is_here else other for mine, other, is_here in zip(own, of_whole, here, strict=True)]

    def variant(self, divided: Divided, stages: Sequence[Stage], owned: Owned, gradients: Gradients) -> Variant:
        """A graph that is cut, with all that running it takes."""
        prepared = divided.prepared
        training = prepared.captured.training
        first = self.schedule(stages, 1 if not training else self._plan.microbatches)
        tensors = _tensors(prepared, owned, self._device)
        runners = {}
        for index in first.stages_of(self._layout.pp_rank):
            runners[index] = StageRunner(stages[index], tensors, self._plan.seed, self._autocast)
        of_stage = [self._layout.team(rank) for rank in first.stage_to_rank]
        teams = Teams(of_stage, self._layout.tp_rank, self._layout.tensor, divided.values)
        messages = Messages(stages, teams, self._layout.replica, self._device)

        def executor(microbatches: int) -> Executor:
            schedule = self.schedule(stages, microbatches)
            reduce = gradients.reduce if training else None
            return Executor(schedule, self._layout.pp_rank, runners, messages, reduce)

        return Variant(divided, stages, runners, executor)

    def _kept(self, prepared: Prepared) -> set[fx.Node]:
        return kept_nodes(prepared.cuttable.trunk, prepared.cuttable.groups, self._plan.keep)

    def schedule(self, stages: Sequence[Stage], microbatches: int) -> Schedule:
        """What each pipeline rank does with so many micro-batches."""
        recomputed = [any(segment.recomputed for segment in stage.segments) for stage in stages]
        return self._plan.make_schedule(edges_between(stages), microbatches, recomputed)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Switches off what a program may have on around a call: autocast, since the plan says in what is computed and
    stages rely on each other's dtypes, and inference mode, which knows no gradients."""
    torch.clear_autocast_cache()
    with torch.autocast(device.type, enabled=False), torch.inference_mode(False):
        yield
    torch.clear_autocast_cache()  # of parameters as they were before the step


def edges_between(stages: Sequence[Stage]) -> list[tuple[int, int, bool]]:
    """Which stages' values which others need, and whether gradients come back."""
    edges: dict[tuple[int, int], bool] = {}
    for stage in stages:
        for value in stage.sent:
            for consumer in value.consumers:
                pair = stage.index, consumer
                edges[pair] = edges.get(pair, False) or value.has_gradient
    return [(producer, consumer, gradient) for (producer, consumer), gradient in sorted(edges.items())]


def _shown(stage: Stage) -> tuple[set[str], set[str], set[tuple[Any, ...]], set[int]]:
    """What of a stage all ranks must agree on: parameters, buffers, what crosses, outputs."""
    crossing = {(one.common, one.producer, one.consumers, one.has_gradient) for one in (*stage.received, *stage.sent)}
    return set(stage.parameters), set(stage.buffers), crossing, set(stage.outputs)


def _check_owned(stages: Sequence[Stage], first: Sequence[Stage]) -> None:
    """Refuses stages that use more than those of the first graph, whose ranks have the parameters. All ranks look at
    all stages, so that all refuse, and none waits for another."""
    for stage, before in zip(stages, first, strict=True):
        if foreign := sorted(name for _, name in names_of(stage) - names_of(before)):
            raise CaptureError(
                f"stage {stage.index} uses {', '.join(foreign)} in this graph, and did not in the one it was cut by: "
                "another rank has them. Give `cuts`, so that all graphs agree"
            )


def _tensors(prepared: Prepared, owned: Owned, device: torch.device) -> dict[tuple[str, str], torch.Tensor]:
    return (
        {("parameter", name): tensor for name, tensor in owned.parameters.items()}
        | {("buffer", name): tensor for name, tensor in owned.buffers.items()}
        | {("constant", name): tensor.to(device) for name, tensor in prepared.captured.constants.items()}
    )
