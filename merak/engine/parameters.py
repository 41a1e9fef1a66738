"""Whose parameters are whose: what a rank's stages use, and who else has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from merak.engine.initialise import materialise, materialised
from merak.engine.layout import Layout
from merak.graph.capture import canonical_names
from merak.graph.stages import Stage
from merak.sharding.divided import Division


@dataclass
class Owned:
    """What a rank has of the model.

    Attributes:
        parameters, buffers: by name, those that its stages use.
        stages: of each parameter's name, the stages of this rank that use it.
        division: which of them are parts, of whole tensors that ranks of tensor parallelism share.
        shared: of names that other ranks of the pipeline have too, the group of all that have them, by
            `Layout.groups_of`.
        counted: names of the parameters that this rank counts where each is to be counted once.
        state: what of the model's state dict this rank has, by name; what no stage uses belongs to the first rank.
    """

    parameters: dict[str, nn.Parameter]
    buffers: dict[str, torch.Tensor]
    stages: dict[str, list[int]]
    division: Division
    shared: dict[str, dist.ProcessGroup | None]
    counted: set[str]
    state: dict[str, torch.Tensor]


def own(
    model: nn.Module,
    stages: Sequence[Stage],
    stage_to_rank: Sequence[int],
    layout: Layout,
    division: Division,
    seed: int,
    device: torch.device,
) -> Owned:
    """Finds what this rank has, and makes what of it is on the meta device. Parts of parameters are new ones; whole
    parameters are the model's own. Collective, since groups are made."""
    ranks_of: dict[str, list[int]] = {}
    for stage in stages:
        for name in stage.parameters:
            ranks = ranks_of.setdefault(name, [])
            if stage_to_rank[stage.index] not in ranks:
                ranks.append(stage_to_rank[stage.index])
    places = sorted({tuple(sorted(ranks)) for ranks in ranks_of.values() if len(ranks) > 1})
    groups = dict(zip(places, layout.groups_of(places), strict=True))
    mine = [stage for stage in stages if stage_to_rank[stage.index] == layout.pp_rank]
    names = set(canonical_names(model).values())
    used = {name for stage in stages for name in (*stage.parameters, *stage.buffers)}
    free = sorted(names - used) if layout.pp_rank == 0 else []
    here = dict.fromkeys(name for stage in mine for name in (*stage.parameters, *stage.buffers))
    made = {name: _part(model, name, division, seed, device) for name in here if division.divides(name)}
    materialise(model, [name for name in (*here, *free) if name not in made], seed, device)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers()) | made
    parameters |= {name: one for name, one in made.items() if isinstance(one, nn.Parameter)}
    using: dict[str, list[int]] = {}
    for stage in mine:
        for name in stage.parameters:
            using.setdefault(name, []).append(stage.index)
    shared = {name: groups[tuple(sorted(ranks_of[name]))] for name in using if len(ranks_of[name]) > 1}
    buffers_here = {name: buffers[name] for stage in mine for name in stage.buffers}
    return Owned(
        parameters={name: parameters[name] for name in using},
        buffers=buffers_here,
        stages=using,
        division=division,
        shared=shared,
        counted={name for name in using if min(ranks_of[name]) == layout.pp_rank and division.is_first(name)},
        state={
            name: made.get(name, tensor)
            for name, tensor in model.state_dict(keep_vars=True).items()
            if name in here or name in free
        },
    )


def _part(model: nn.Module, name: str, division: Division, seed: int, device: torch.device) -> torch.Tensor:
    """This rank's part of a parameter or buffer. The whole of one on the meta device is there for a moment only."""
    with materialised(model, name, seed, device) as whole:
        part = division.part(name, whole.detach())
        return nn.Parameter(part, whole.requires_grad) if isinstance(whole, nn.Parameter) else part
