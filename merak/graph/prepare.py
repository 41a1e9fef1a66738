"""From a model to a graph that is ready to be cut: all passes in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from merak.graph.buffer_writes import place_assigned
from merak.graph.canonical_order import in_canonical_order
from merak.graph.capture import Captured, LossFunction, capture
from merak.graph.dependence import values_of_inputs
from merak.graph.experts import experts_as_one
from merak.graph.losses import Terms, share_loss
from merak.graph.normal_form import AliasGroups, normalise
from merak.graph.randomness import seed_random_operations
from merak.graph.stages import Cuttable


@dataclass(frozen=True)
class Prepared:
    """A captured model whose loss is a micro-batch's share, and whose random operations are seeded."""

    captured: Captured
    terms: Terms
    cuttable: Cuttable


def prepare(
    model: nn.Module, batch: Mapping[str, Any], *, training: bool = True, loss_fn: LossFunction | None = None
) -> Prepared:
    """Captures a model on an example of a micro-batch; see `capture` for arguments and errors."""
    captured = capture(model, batch, training=training, loss_fn=loss_fn)
    place_assigned(captured)
    captured = in_canonical_order(captured, normalise(captured))
    experts_as_one(captured.graph)
    groups = AliasGroups(captured)
    seed_random_operations(captured.graph)
    of_inputs = values_of_inputs(captured, groups)
    terms = share_loss(captured, groups, of_inputs)
    return Prepared(captured, terms, Cuttable(captured, groups, of_inputs))
