"""Functional collectives over the backend, eagerly and inside `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from tests.backend import torch_internals
from tests.backend.harness import Context

SameAsGloo = Callable[..., object]
WORLD = list(range(3))


def chain(x: torch.Tensor) -> list[torch.Tensor]:
    """Every functional collective once, each on what the one before gave; `x` is `[6, 3]`."""
    functional = torch_internals.functional
    summed = functional.all_reduce(x * 2, "sum", WORLD)
    gathered = functional.all_gather_tensor(summed + x, gather_dim=0, group=WORLD)
    across = functional.all_gather_tensor(x, gather_dim=1, group=WORLD)
    averaged = functional.reduce_scatter_tensor(gathered, "avg", scatter_dim=0, group=WORLD)
    swapped = functional.all_to_all_single(averaged, None, None, WORLD)
    shared = functional.broadcast(swapped, 1, WORLD)
    pair = functional.all_reduce_coalesced([shared, x], "max", WORLD)
    several = functional.all_gather_into_tensor_coalesced(list(pair), WORLD)
    return [summed, gathered, across, averaged, swapped, shared, *pair, *several]


def run_chain(context: Context, compiled: bool) -> list[torch.Tensor]:
    x = torch.arange(18.0).reshape(6, 3) + 100 * context.rank
    function = torch.compile(chain, backend="aot_eager", fullgraph=True) if compiled else chain
    return [y + 0 for y in function(x)]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "aot_eager"])
def test_functional_collectives_equal_gloo(same_as_gloo: SameAsGloo, compiled: bool) -> None:
    same_as_gloo(run_chain, compiled, world_size=3, deadline=180.0)


def differentiate(context: Context) -> torch.Tensor:
    x = torch.full((4, 2), float(context.rank + 1), requires_grad=True)
    gathered = torch_internals.functional.all_gather_tensor_autograd(x, gather_dim=0, group=WORLD)
    (gathered * torch.arange(24.0).reshape(12, 2)).sum().backward()
    assert x.grad is not None
    return x.grad


def test_gradients_through_a_collective_equal_gloo(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(differentiate, world_size=3)


def compile_in_place(context: Context) -> torch.Tensor:
    def body(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        dist.all_reduce(x)
        return x * 2

    return torch.compile(body, backend="aot_eager", fullgraph=True)(torch.ones(5) * context.rank)


def test_an_ordinary_collective_is_compiled(same_as_gloo: SameAsGloo) -> None:
    same_as_gloo(compile_in_place, world_size=3, deadline=180.0)
