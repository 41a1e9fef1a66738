"""Clipping of gradients by their norm, where tables are split over ranks.

The norm of all gradients is the norm of their norms. A rank knows those of the layers that all ranks have, and of
tables those of its part; ranks tell each other the latter, one number a table. So every rank has the same numbers in
the same order, and multiplies by the same factor.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from merak.embedding.module import table_of
from merak.embedding.part_of_gradient import plain


@torch.no_grad()
def clip_grad_norm_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> torch.Tensor:
    """`torch.nn.utils.clip_grad_norm_` for models with `ShardedEmbedding` tables: the norm is that of the whole model,
    all of the tables and, once, the parameters that all ranks have. All ranks call it together, with the same
    parameters in the same order, after the backward pass.

    Args:
        parameters, max_norm, error_if_nonfinite: as there; `model.parameters()`.
        norm_type: above 0, `float("inf")` too.

    Returns:
        The norm before clipping, in float64, on CPU; the same on all ranks.

    Raises:
        ValueError: norm_type is not above 0.
        RuntimeError: the norm is not finite, and error_if_nonfinite; on all ranks.
    """
    if not norm_type > 0:
        raise ValueError(f"norm_type is {norm_type}; it must be above 0.")
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    for parameter in parameters:
        if (table := table_of(parameter)) is not None:
            table.whole_gradient()
    total: torch.Tensor = torch.linalg.vector_norm(_all_norms(parameters, norm_type), norm_type)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(f"the norm of the gradients is {total.item()}; clipping them would make all of them so.")
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0).item()
    if factor != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                _elements(parameter.grad).mul_(factor)
    return total


def _all_norms(parameters: list[torch.Tensor], norm_type: float) -> torch.Tensor:
    """Of all parameters with a gradient, and for tables one of each rank's part."""
    norms: dict[dist.ProcessGroup | None, list[torch.Tensor]] = collections.defaultdict(list)
    for parameter in parameters:
        table = table_of(parameter)
        norms[None if table is None else table.mesh.get_group()].append(_norm(parameter, norm_type))
    gathered = [_gathered(torch.stack(some), group) for group, some in norms.items()]
    return torch.cat(gathered) if gathered else torch.zeros(1, dtype=torch.float64)


def _gathered(norms: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    if group is None:
        return norms
    everywhere = norms.new_empty(group.size() * len(norms))
    dist.all_gather_into_tensor(everywhere, norms, group=group)
    return everywhere


def _norm(parameter: torch.Tensor, norm_type: float) -> torch.Tensor:
    if parameter.grad is None:
        return torch.zeros((), dtype=torch.float64)
    if parameter.grad.layout is torch.sparse_coo:
        parameter.grad = parameter.grad.coalesce()  # elements that stand twice have to be added up first
    table = table_of(parameter)
    elements = _elements(parameter.grad) if table is None else table.counted(plain(parameter.grad))
    if elements.numel() == 0:
        return torch.zeros((), dtype=torch.float64)
    wide = torch.float64 if elements.dtype is torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(elements, norm_type, dtype=wide)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).to("cpu", torch.float64)


def _elements(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.values() if gradient.layout is torch.sparse_coo else gradient
