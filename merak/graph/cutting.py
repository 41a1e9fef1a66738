"""Where to cut a captured model into pipeline stages, and what each recomputes, from what its nodes cost.

A step's time, the memory of a rank and the search are csrc/graph (pipeline_model.h, stage_memory.h, exact_cut.h); this
is its Python face. Nodes are numbered in the order of execution; all costs are those of one micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypedDict, Unpack

from merak import _C
from merak.resharding.explaining import seconds_text, size_text

Recomputation = str | float | Sequence[float]
"""What stages recompute: "auto", the least that fits; "none"; "all"; a share of their forward seconds, or one each."""


@dataclass(frozen=True)
class NodeCost:
    """What a node costs.

    Attributes:
        forward_s, backward_input_s, backward_weight_s: seconds.
        saved_bytes: of activations that its backward needs. What several nodes save counts at the last of them.
        parameters: what it uses; indices of `GraphCosts.parameter_bytes`.
        kept: its result stays where its stage recomputes, and it does not run again.
        kept_bytes: what stays of kept results whose saved bytes count here, or that are made here and saved nowhere.
        working_bytes: what is alive while its backward runs, and is not saved.
    """

    forward_s: float
    backward_input_s: float
    backward_weight_s: float
    saved_bytes: float
    parameters: tuple[int, ...] = ()
    kept_bytes: float = 0.0
    kept: bool = False
    working_bytes: float = 0.0


@dataclass(frozen=True)
class Value:
    """What a node gives to later ones.

    Attributes:
        producer: a node; -1 for an input of the model, which does not travel between stages.
        consumers: nodes.
        nbytes: of it, and of its gradient.
        gradient: whether that comes back.
    """

    producer: int
    consumers: tuple[int, ...]
    nbytes: float
    gradient: bool = True


@dataclass(frozen=True)
class GraphCosts:
    """A model as a line of nodes.

    Attributes:
        nodes: in the order of execution.
        values: what passes between them.
        parameter_bytes: by parameter; one that several nodes use counts once in each stage that uses it.
        may_cut: by node, whether a boundary is allowed before it.
        may_end_prefix: by node, whether the recomputed part of a stage may end before it; by default it may anywhere.
        parameter_names: by parameter, what it is called, for whoever wants to know.
    """

    nodes: tuple[NodeCost, ...]
    values: tuple[Value, ...]
    parameter_bytes: tuple[float, ...]
    may_cut: tuple[bool, ...]
    may_end_prefix: tuple[bool, ...] = ()
    parameter_names: tuple[str, ...] = ()

    @cached_property
    def tables(self) -> _C.CutCosts:
        """For C++.

        Raises:
            ValueError: a number makes no sense.
        """
        nodes = [
            (
                node.forward_s,
                node.backward_input_s,
                node.backward_weight_s,
                node.saved_bytes,
                list(node.parameters),
                node.kept_bytes,
                node.kept,
                node.working_bytes,
            )
            for node in self.nodes
        ]
        values = [(value.producer, list(value.consumers), value.nbytes, value.gradient) for value in self.values]
        parameters, may_cut, may_end = list(self.parameter_bytes), list(self.may_cut), list(self.may_end_prefix)
        return _C.CutCosts(nodes, values, parameters, may_cut, may_end)


class Conditions(TypedDict, total=False):
    """What a cut is made for; all of it may be left out.

    Attributes:
        micro_batches: of a step; 1.
        rank_of_stage: by stage; each has a rank of its own.
        in_flight: by stage, the most micro-batches whose activations live there at once: n, or (whole, checkpointed),
            where n means (1, n - 1). Plain 1F1B, which has to be said otherwise if ranks have several stages.
        state_factor: bytes of parameter, gradient and optimizer state for each byte of parameter; 4, as fp32 and Adam.
        memory: bytes of a rank, or of each; unlimited.
        bandwidth, latency: bytes/s and seconds of a message between stages; infinite and 0.
        hides_communication: whether the schedule keeps enough in flight that messages travel while ranks work (eager
            1F1B); otherwise it adds to each micro-batch's time.
    """

    micro_batches: int
    rank_of_stage: Sequence[int]
    in_flight: Sequence[int | tuple[int, int]]
    state_factor: float
    memory: float | Sequence[float] | None
    bandwidth: float
    latency: float
    hides_communication: bool


@dataclass(frozen=True)
class StageCost:
    """What a stage takes, for one micro-batch.

    Attributes:
        rank: where it lives.
        first, end: its nodes, `end` not included.
        recomputed: how many of them, from the first on, run forward again before backward.
        forward_s, backward_s, recompute_s: seconds of work.
        receive_s, return_s: seconds of what it gets from earlier stages, and of the gradients that it gives back.
        parameter_bytes, input_bytes, saved_bytes: with everything kept.
        kept_bytes: of those saved, what stays between forward and backward.
        memory_bytes: of all micro-batches in flight, with gradients and the optimizer's state.
        crossing_bytes: what it receives and returns.
    """

    rank: int
    first: int
    end: int
    recomputed: int
    forward_s: float
    backward_s: float
    recompute_s: float
    receive_s: float
    return_s: float
    parameter_bytes: float
    input_bytes: float
    saved_bytes: float
    kept_bytes: float
    memory_bytes: float
    crossing_bytes: float

    @property
    def work_s(self) -> float:
        """Seconds in which its rank computes."""
        return self.forward_s + self.backward_s + self.recompute_s

    @property
    def share_recomputed(self) -> float:
        """Of its forward seconds."""
        return self.recompute_s / self.forward_s if self.forward_s > 0 else float(self.recomputed > 0)


@dataclass(frozen=True)
class Cut:
    """Stages, and what they take.

    Attributes:
        stages: from first to last.
        memory_bytes, missing_bytes, period_s: by rank: what it needs, by how much that is above what it has, and the
            seconds that one more micro-batch takes it.
        step_s: seconds of a step, without gradients' reduction and the optimizer.
        uniform_s, uniform_share: those of a cut into as many nodes, or bytes of parameters, a stage, with the least
            equal share recomputed everywhere; None where it does not fit or was not asked for.
    """

    stages: tuple[StageCost, ...]
    memory_bytes: tuple[float, ...]
    missing_bytes: tuple[float, ...]
    period_s: tuple[float, ...]
    step_s: float
    uniform_s: float | None = None
    uniform_share: float | None = None

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first node of each stage but the first."""
        return tuple(stage.first for stage in self.stages[1:])

    @property
    def recomputed(self) -> tuple[int, ...]:
        """By stage: how many nodes, from its first on, run forward again before backward."""
        return tuple(stage.recomputed for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether every rank's memory suffices."""
        return not any(self.missing_bytes)

    def explain(self) -> str:
        """A table of the stages, and what a step takes."""
        return "\n".join(_lines(self))


def advice(remedies: Sequence[str]) -> str:
    """What would fit, in words."""
    return "It would fit " + ", or ".join(remedies) if remedies else "Nothing that was tried would fit"


class DoesNotFitError(ValueError):
    """No cut fits into the ranks' memory. Its text says what is missing, and what would fit.

    Attributes:
        cut: the one that misses least.
    """

    def __init__(self, cut: Cut, remedies: Sequence[str]) -> None:
        misses = [
            f"rank {rank} misses {missing / 1e9:.3g} of {needed / 1e9:.3g} GB"
            for rank, (missing, needed) in enumerate(zip(cut.missing_bytes, cut.memory_bytes, strict=True))
            if missing
        ]
        super().__init__(f"{len(cut.stages)} stages do not fit, however cut: {'; '.join(misses)}. {advice(remedies)}.")
        self.cut = cut


def cut(
    costs: GraphCosts,
    stages: int,
    *,
    recompute: Recomputation = "auto",
    recomputed_nodes: Sequence[int] | None = None,
    boundaries: Sequence[int] = (),
    **conditions: Unpack[Conditions],
) -> Cut:
    """The cut into that many stages by which a step takes the least time.

    Args:
        recompute: see `Recomputation`.
        recomputed_nodes: by stage, how many nodes are, in place of `recompute`.
        boundaries: nodes where a stage has to begin; with stages - 1 of them only recomputation is left to choose.
        conditions: see `Conditions`.
    Raises:
        DoesNotFitError: it is a ValueError too.
        ValueError: the arguments make no sense, or there are more stages than places to cut.
    """
    way, model, forced = _way(recompute, recomputed_nodes, stages), _model(stages, conditions), list(boundaries)
    found = _cut_of(costs.tables.cut(model, way, forced))
    if not found.fits:
        raise DoesNotFitError(found, _remedies(*costs.tables.remedies(model, way, forced), stages))
    uniform = [costs.tables.uniform_cut(model, by_parameters) for by_parameters in (False, True)]
    fitting = [(facts["step_s"], share) for facts, share in uniform if not any(facts["missing_bytes"])]
    return found if forced or not fitting else _with_uniform(found, *min(fitting))


def uniform_recompute(
    costs: GraphCosts, stages: int, boundaries: Sequence[int], **conditions: Unpack[Conditions]
) -> Cut:
    """Those stages, with the least share that fits recomputed of each. Where nothing fits, `Cut.fits` says so.

    Raises:
        ValueError: the arguments make no sense.
    """
    if len(boundaries) != stages - 1:
        raise ValueError(f"{stages} stages have {stages - 1} boundaries, not {len(boundaries)}")
    facts, share = costs.tables.uniform_recompute(_model(stages, conditions), list(boundaries))
    found = _cut_of(facts)
    return _with_uniform(found, found.step_s, share)


def _cut_of(facts: dict[str, Any]) -> Cut:
    stages = tuple(StageCost(**stage) for stage in facts["stages"])
    memory, missing, period = (tuple(facts[name]) for name in ("memory_bytes", "missing_bytes", "period_s"))
    return Cut(stages, memory, missing, period, facts["step_s"])


def _with_uniform(found: Cut, seconds: float, share: float) -> Cut:
    return replace(found, uniform_s=seconds, uniform_share=share)


def _way(recompute: Recomputation, nodes: Sequence[int] | None, stages: int) -> tuple[str, list[float], list[int]]:
    if nodes is not None:
        return "nodes", [], list(nodes)
    if isinstance(recompute, str):
        return recompute, [], []
    return "shares", [recompute] * stages if isinstance(recompute, int | float) else list(recompute), []


def _model(stages: int, conditions: Conditions) -> _C.CutModel:
    if stages < 1:
        raise ValueError(f"{stages} stages")
    micro_batches = conditions.get("micro_batches", 1)
    rank_of_stage = list(conditions.get("rank_of_stage", range(stages)))
    if len(rank_of_stage) != stages:
        raise ValueError(f"rank_of_stage has {len(rank_of_stage)} entries for {stages} stages")
    ranks = max(rank_of_stage) + 1
    in_flight = conditions.get("in_flight")
    if in_flight is None:
        if ranks < stages:
            raise ValueError("in_flight has to be given if ranks have several stages")
        in_flight = [min(micro_batches, stages - stage) for stage in range(stages)]
    memory = conditions.get("memory")
    memory = math.inf if memory is None else memory
    return _C.CutModel(
        rank_of=rank_of_stage,
        in_flight=[(1, one - 1) if isinstance(one, int) else one for one in in_flight],
        micro_batches=micro_batches,
        state_factor=conditions.get("state_factor", 4.0),
        budget_bytes=[float(memory)] * ranks if isinstance(memory, int | float) else list(memory),
        latency_s=conditions.get("latency", 0.0),
        bytes_per_s=conditions.get("bandwidth", math.inf),
        hides_communication=conditions.get("hides_communication", False),
    )


def _remedies(in_flight: int, more_stages: int, recompute: bool, stages: int) -> list[str]:
    found = []
    if recompute:
        found.append('with recompute="auto"')
    if in_flight:
        found.append(f"with at most {in_flight} micro-batch{'es' if in_flight > 1 else ''} in flight at each stage")
    if more_stages:
        found.append(f"with {more_stages} stages in place of {stages}, each on a rank with as much memory")
    return found


def _lines(cut: Cut) -> Iterator[str]:
    yield (
        f"{'stage':>5} {'rank':>4} {'nodes':>11} {'parameters':>10} {'work':>10} {'receive':>10} {'return':>10} "
        f"{'memory':>10} {'recomputed':>10}"
    )
    for number, stage in enumerate(cut.stages):
        nodes = f"{stage.first}-{stage.end - 1}"
        seconds = " ".join(f"{seconds_text(one):>10}" for one in (stage.work_s, stage.receive_s, stage.return_s))
        yield (
            f"{number:5} {stage.rank:4} {nodes:>11} {size_text(stage.parameter_bytes):>10} {seconds} "
            f"{size_text(stage.memory_bytes):>10} {100 * stage.share_recomputed:8.0f} %"
        )
    slowest = max(range(len(cut.period_s)), key=lambda rank: cut.period_s[rank])
    yield (
        f"a step by the formula that cuts are chosen by (all stages once, the slowest rank for each further "
        f"micro-batch): {seconds_text(cut.step_s)}; the slowest is rank {slowest}, with "
        f"{seconds_text(cut.period_s[slowest])} a micro-batch"
    )
    for rank, missing in enumerate(cut.missing_bytes):
        if missing:
            yield f"rank {rank} misses {size_text(missing)}"
    if cut.uniform_s is not None and cut.uniform_share is not None:
        yield (
            f"uniform stages, {100 * cut.uniform_share:.0f} % of each recomputed: {seconds_text(cut.uniform_s)}, "
            f"{cut.uniform_s / cut.step_s:.3f} times as long"
        )
