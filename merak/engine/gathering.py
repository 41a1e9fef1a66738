"""A plain model with the values that all ranks have trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn

from merak.engine.agreement import merge_on_all
from merak.graph.capture import canonical_names
from merak.pipeline.messages import on_wire


def gather_into(model: nn.Module, mine: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Fills a plain model's parameters and buffers in place, one after the other, from the lowest rank that has each.

    Args:
        model: with memory for all of them, on every rank.
        mine: what this rank has of the state dict, by the first of its names.
    """
    owners = merge_on_all({name: dist.get_rank() for name in mine}, device)
    names = canonical_names(model)
    for name, tensor in model.state_dict().items():
        if names.get(name) == name and tensor.numel():
            value = mine.get(name, tensor).detach().to(device).contiguous()
            dist.broadcast(on_wire(value), src=owners[name])
            tensor.copy_(value)
