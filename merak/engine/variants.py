"""Graphs of one model for different batches and modes, all cut at the same places.

Training and evaluation are different graphs, and so are batches with other inputs (with and without labels), or with
sizes that the model's code fixes. Each is captured when it is first needed. The first, of training, decides where the
boundaries are, and so which rank has which parameters; the boundaries of another graph follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from merak.graph.dependence import with_dependencies
from merak.graph.errors import CaptureError
from merak.graph.prepare import Prepared
from merak.graph.stages import Cuttable, Stage
from merak.graph.trees import flatten
from merak.pipeline.executor import Executor
from merak.pipeline.microbatches import MicroBatch, bind
from merak.pipeline.stage_runner import StageRunner
from merak.sharding.divided import Divided

_MOST_OF_A_KIND = 8


@dataclass
class Variant:
    """A graph that is ready to run.

    Attributes:
        divided: the graph, as this rank has it.
        stages: of all ranks.
        runners: of this rank's stages.
        executors: by number of micro-batches.
        make_executor: for a number of micro-batches that is new.
    """

    divided: Divided
    stages: Sequence[Stage]
    runners: Mapping[int, StageRunner]
    make_executor: Callable[[int], Executor]
    executors: dict[int, Executor] = field(default_factory=dict)

    @property
    def prepared(self) -> Prepared:
        """The graph."""
        return self.divided.prepared

    def executor(self, microbatches: int) -> Executor:
        """The one for that many micro-batches."""
        if microbatches not in self.executors:
            self.executors[microbatches] = self.make_executor(microbatches)
        return self.executors[microbatches]


class Variants:
    """All graphs of a model.

    Args:
        first: of training.
        example: the micro-batch that it was captured with.
        make: captures a micro-batch, in training or not, and cuts it.
    """

    def __init__(
        self, first: Variant, example: Mapping[str, Any], make: Callable[[Mapping[str, Any], bool], Variant]
    ) -> None:
        self.first, self._make = first, make
        self._known: dict[tuple[bool, str], list[Variant]] = {(True, _kind(example)): [first]}
        self._dtypes = _floating_dtypes(example)

    def bind(
        self, parts: Sequence[Mapping[str, Any]], training: bool, first_index: int
    ) -> tuple[Variant, list[MicroBatch]]:
        """The graph for these micro-batches, captured if it has to be.

        Raises:
            ValueError: no graph fits all of them, and none can be captured that does.
        """
        self._check_dtypes(parts[0])
        known = self._known.setdefault((training, _kind(parts[0])), [])
        misfit = ValueError("the batch was not captured")
        for variant in known:
            try:
                return variant, _bound(variant, parts, first_index)
            except ValueError as error:
                misfit = error
        if len(known) == _MOST_OF_A_KIND:
            raise ValueError(f"{misfit}\n(and {_MOST_OF_A_KIND} graphs for other sizes were made already: pad batches)")
        known.append(self._captured(parts[0], training))
        self._dtypes = _floating_dtypes(parts[0]) | self._dtypes
        return known[-1], _bound(known[-1], parts, first_index)

    def _check_dtypes(self, batch: Mapping[str, Any]) -> None:
        """Refuses floating dtypes other than the first: parameters would not go with them, which a capture, on fake
        tensors, may not notice. Integers of another width are captured anew."""
        found = _floating_dtypes(batch)
        for path in found.keys() & self._dtypes.keys():
            if found[path] != (wanted := self._dtypes[path]):
                raise ValueError(
                    f"the batch's {path} is {found[path]}, and was {wanted} in the example that the model was captured "
                    f"with: give {path}.to({wanted})"
                )

    def _captured(self, batch: Mapping[str, Any], training: bool) -> Variant:
        try:
            return self._make(batch, training)
        except CaptureError as error:
            try:
                _bound(self.first, [batch], 0)
            except ValueError as misfit:
                raise CaptureError(f"{error}\n{misfit}\nso that it had to be captured anew") from error
            raise


def _bound(variant: Variant, parts: Sequence[Mapping[str, Any]], first_index: int) -> list[MicroBatch]:
    return [bind(variant.prepared.captured, part, first_index + i) for i, part in enumerate(parts)]


def _floating_dtypes(batch: Mapping[str, Any]) -> dict[str, torch.dtype]:
    flat = flatten(dict(batch))
    tensors = {p: leaf for p, leaf in zip(flat.paths, flat.leaves, strict=True) if isinstance(leaf, torch.Tensor)}
    return {path: one.dtype for path, one in tensors.items() if one.is_floating_point() or one.is_complex()}


def _kind(batch: Mapping[str, Any]) -> str:
    """What two batches must share to be candidates for one graph."""
    flat = flatten(dict(batch))
    leaves = [(leaf.dtype, leaf.dim()) if isinstance(leaf, torch.Tensor) else repr(leaf) for leaf in flat.leaves]
    return repr((flat.paths, leaves))


def same_boundaries(
    reference: Cuttable, boundaries: Sequence[int], stages: Sequence[Stage], other: Cuttable
) -> list[int]:
    """Where the boundaries of one graph lie in another of the same model: each as near as may be to where the same use
    of the same parameter comes first after it, such that a stage uses no more parameters and buffers than in the first
    graph, since ranks have no others. A stage may have nothing to do.

    Args:
        boundaries, stages: of the reference.

    Raises:
        CaptureError: the other graph cannot be cut so; the same on all ranks.
    """
    used = _used(other)
    owned = [names_of(stage) for stage in stages]
    wanted = [_wanted(reference, boundary, other) for boundary in boundaries]
    found = _nearest([[own.issuperset(names) for names in used] for own in owned], wanted, other.may_cut)
    if found is None:
        raise CaptureError(
            "another graph of the model (of evaluation, or of a batch with other inputs) cannot be cut where the first "
            f"was: {_obstacle(owned, used, other)}. Give `cuts`, so that all graphs agree"
        )
    return found


def names_of(stage: Stage) -> set[tuple[str, str]]:
    """Kinds and names of what a stage has of the model."""
    return {("parameter", name) for name in stage.parameters} | {("buffer", name) for name in stage.buffers}


def _wanted(reference: Cuttable, boundary: int, other: Cuttable) -> int:
    """Where a boundary would lie if only the uses of parameters mattered."""
    uses, positions = _uses(reference), {use: position for position, use in _uses(other).items()}
    at = min((p for p in uses if p >= boundary and uses[p] in positions), default=len(reference.trunk))
    there = positions[uses[at]] if at in uses else len(other.trunk)
    return max(0, there - (at - boundary))


def _nearest(fits: Sequence[Sequence[bool]], wanted: Sequence[int], may_cut: Sequence[bool]) -> list[int] | None:
    """The boundaries that are nearest to those wanted, added up; None if there are none. Stage by stage: the cheapest
    way to each position where it may end.

    Args:
        fits: of each stage, whether each operation may be in it.
    """
    end = len(may_cut)
    costs, ways = {0: 0}, list[dict[int, int]]()  # of each position where a stage may begin, and where the last one did
    for stage, aim in enumerate([*wanted, end]):
        reached: dict[int, int] = {}
        way: dict[int, int] = {}
        begin: int | None = None
        for position in range(end + 1):
            if position in costs and (begin is None or costs[position] < costs[begin]):
                begin = position
            if begin is not None and (position in (0, end) or may_cut[position]):
                reached[position], way[position] = costs[begin] + abs(position - aim), begin
            if position < end and not fits[stage][position]:
                begin = None
        costs, ways = reached, [*ways, way]
    if end not in costs:
        return None
    found = [end]
    for way in reversed(ways):
        found.append(way[found[-1]])
    return found[-2:0:-1]


def _obstacle(owned: Sequence[set[tuple[str, str]]], used: Sequence[set[tuple[str, str]]], other: Cuttable) -> str:
    """Why there are no boundaries: the first operation that no stage behind the one before it can do."""
    stage = 0
    for node, names in zip(other.trunk, used, strict=True):
        while stage < len(owned) and not names <= owned[stage]:
            stage += 1
        if stage == len(owned):
            what = ", ".join(sorted(name for _, name in names))
            return f"its operation {node.name} uses {what}, which no stage has that could do it in this order"
    return "a list, or a value that is written to later, would cross a boundary"


def _used(cuttable: Cuttable) -> list[set[tuple[str, str]]]:
    """By position: the parameters and buffers that an operation needs, be it by way of what the batch determines."""
    found: list[set[tuple[str, str]]] = []
    for node in cuttable.trunk:
        inputs = set(node.all_input_nodes)
        needed = inputs | with_dependencies(inputs & cuttable.of_inputs, cuttable.groups)
        sources = [cuttable.captured.sources[one.name] for one in needed if one.op == "placeholder"]
        found.append({(kind, key) for kind, key in sources if kind in ("parameter", "buffer")})
    return found


def _uses(cuttable: Cuttable) -> dict[int, tuple[str, int]]:
    """By position: the first parameter that is used there, and how many uses of it came before."""
    counts: dict[fx.Node, int] = {}
    uses: dict[int, tuple[str, int]] = {}
    for position, node in enumerate(cuttable.trunk):
        for source in node.all_input_nodes:
            if source.op == "placeholder" and cuttable.captured.sources[source.name].kind == "parameter":
                uses.setdefault(position, (cuttable.captured.sources[source.name].key, counts.get(source, 0)))
                counts[source] = counts.get(source, 0) + 1
    return uses
