"""Graphs of one model for different batches and modes, all cut at the same places.

Training and evaluation are different graphs, and so are batches with other inputs (with and without labels), or with
sizes that the model's code fixes. Each is captured when it is first needed. The first, of training, decides where the
boundaries are; in another graph a boundary lies where the same use of the same parameter comes first after it, or the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from merak.graph.errors import CaptureError
from merak.graph.prepare import Prepared
from merak.graph.stages import Cuttable, Stage
from merak.graph.trees import flatten
from merak.pipeline.executor import Executor
from merak.pipeline.microbatches import MicroBatch, bind
from merak.pipeline.stage_runner import StageRunner

_MOST_OF_A_KIND = 8


@dataclass
class Variant:
    """A graph that is ready to run.

    Attributes:
        stages: of all ranks.
        runners: of this rank's stages.
        executors: by number of micro-batches.
        make_executor: for a number of micro-batches that is new.
    """

    prepared: Prepared
    stages: Sequence[Stage]
    runners: Mapping[int, StageRunner]
    make_executor: Callable[[int], Executor]
    executors: dict[int, Executor] = field(default_factory=dict)

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

    def bind(
        self, parts: Sequence[Mapping[str, Any]], training: bool, first_index: int
    ) -> tuple[Variant, list[MicroBatch]]:
        """The graph for these micro-batches, captured if it has to be.

        Raises:
            ValueError: no graph fits all of them.
        """
        known = self._known.setdefault((training, _kind(parts[0])), [])
        misfit = ValueError("the batch was not captured")
        for variant in known:
            try:
                return variant, _bound(variant, parts, first_index)
            except ValueError as error:
                misfit = error
        if len(known) == _MOST_OF_A_KIND:
            raise ValueError(f"{misfit}\n(and {_MOST_OF_A_KIND} graphs for other sizes were made already: pad batches)")
        known.append(self._make(parts[0], training))
        return known[-1], _bound(known[-1], parts, first_index)


def _bound(variant: Variant, parts: Sequence[Mapping[str, Any]], first_index: int) -> list[MicroBatch]:
    return [bind(variant.prepared.captured, part, first_index + i) for i, part in enumerate(parts)]


def _kind(batch: Mapping[str, Any]) -> str:
    """What two batches must share to be candidates for one graph."""
    flat = flatten(dict(batch))
    leaves = [(leaf.dtype, leaf.dim()) if isinstance(leaf, torch.Tensor) else repr(leaf) for leaf in flat.leaves]
    return repr((flat.paths, leaves))


def same_boundaries(reference: Cuttable, boundaries: Sequence[int], other: Cuttable) -> list[int]:
    """Where the boundaries of one graph lie in another of the same model.

    Raises:
        CaptureError: the other graph uses parameters in another order, so that it cannot be cut there.
    """
    if [node.target for node in reference.trunk] == [node.target for node in other.trunk]:
        return list(boundaries)
    uses, positions = _uses(reference), {use: position for position, use in _uses(other).items()}
    end, other_end = len(reference.trunk), len(other.trunk)
    found: list[int] = []
    for boundary in boundaries:
        at = min((position for position in uses if position >= boundary), default=end)
        there = other_end if at == end else positions.get(uses[at])
        if there is None:
            raise CaptureError(
                f"stages that begin at {reference.trunk[boundary].name} cannot be found in another graph of the model "
                "(of evaluation, or of a batch with other inputs): it does not use the same parameters. Give `cuts`"
            )
        start = found[-1] + 1 if found else 1
        wanted = there - (at - boundary)
        candidates = [p for p in range(start, min(there + 1, other_end)) if other.may_cut[p]]
        if not candidates:
            raise CaptureError(
                f"no boundary may lie where another graph of the model would need one, to begin a stage as at "
                f"{reference.trunk[boundary].name}. Give `cuts`"
            )
        found.append(min(candidates, key=lambda position: (abs(position - wanted), position)))
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
