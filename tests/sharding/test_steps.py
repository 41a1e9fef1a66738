"""Any layout becomes any other: real ranks run the steps, and each has the part that it should, and the gradient."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from merak import _C
from merak.sharding import collectives
from merak.sharding.parts import Place, parts, places_of
from tests.backend.harness import Context
from tests.sharding.whole import groups_of

Runner = Callable[..., list[Any]]
Layout = list[list[tuple[int, list[int]]]]


def random_layout(choice: random.Random, axes: int) -> Layout:
    """Of a tensor of 6 x 12 x 5, whose middle dimension may be 3 x 4."""
    dims: Layout = [[(6, [])], choice.choice([[(12, [])], [(3, []), (4, [])]]), [(5, [])]]
    for axis in choice.sample(range(axes), axes):
        if choice.random() < 0.7:
            choice.choice(choice.choice(dims))[1].append(axis)
    return [[(size, list(of_piece)) for size, of_piece in pieces] for pieces in dims]


def partial_axes(choice: random.Random, layout: Layout, axes: int) -> list[int]:
    used = set(itertools.chain.from_iterable(of_piece for pieces in layout for _, of_piece in pieces))
    return [axis for axis in range(axes) if axis not in used and choice.random() < 0.5]


def walk(x: torch.Tensor, steps: list[dict[str, Any]], places: list[Place]) -> Any:
    for step in steps:
        (axis,) = step["axes"]
        group = places[axis].group
        if step["kind"] in ("all_reduce", "vary"):
            x = getattr(collectives, step["kind"])(x, group)
        elif step["kind"] == "all_to_all":
            whole = cut(step["dim"], step["pieces"], step["piece"], places)
            part = cut(step["to_dim"], step["to_pieces"], step["to_piece"], places)
            x = collectives.all_to_all(x, group, whole, part)
        else:
            name = {"slice": "slice_own", "all_gather": "all_gather_vary" if step["varies"] else "all_gather"}
            function = getattr(collectives, name.get(step["kind"], step["kind"]))
            x = function(x, group, *cut(step["dim"], step["pieces"], step["piece"], places))
    return x


def cut(dim: int, pieces: list[tuple[int, list[int]]], number: int, places: list[Place]) -> tuple[int, ...]:
    def local(some: list[tuple[int, list[int]]]) -> int:
        sizes = 1
        for size, axes in some:
            for axis in axes:
                size = collectives.chunk_of(size, places[axis].ranks, places[axis].rank)
            sizes *= size
        return sizes

    size, axes = pieces[number]
    place = places[axes[-1]]
    outer, inner = local(pieces[:number]), local(pieces[number + 1 :])
    return dim, outer, local([(size, axes[:-1])]), inner, place.ranks, place.rank


def trial(context: Context, mesh: dict[str, int], seeds: range) -> list[str]:
    """What is wrong, seed by seed."""
    places = places_of(mesh, context.rank, groups_of(mesh, context.rank))
    wrong = []
    for seed in seeds:
        choice = random.Random(seed)
        before, after = random_layout(choice, len(mesh)), random_layout(choice, len(mesh))
        partial = partial_axes(choice, before, len(mesh))
        whole = torch.arange(6 * 12 * 5, dtype=torch.float64).view(6, 12, 5) + 1
        terms = 1
        for axis in partial:
            terms *= places[axis].ranks
        mine = (parts(whole, before, places) / terms).clone().requires_grad_()
        steps = _C.sharding_steps(list(mesh.items()), before, partial, after, [])
        made = walk(mine, steps, places)
        expected = parts(whole, after, places)
        if made.shape != expected.shape or not torch.allclose(made, expected):
            wrong.append(f"seed {seed}: {before} + {partial} -> {after} by {[step['kind'] for step in steps]}")
            continue
        # The gradient of the whole is the whole itself: each part of it must come back to who has it.
        made.backward(expected)
        if not torch.allclose(mine.grad, parts(whole, before, places)):
            wrong.append(f"seed {seed}: the gradient of {before} + {partial} -> {after}")
    return wrong


@pytest.mark.parametrize("mesh", [{"a": 2}, {"a": 3}, {"a": 2, "b": 2}], ids=str)
def test_any_layout_becomes_any_other(run: Runner, mesh: dict[str, int]) -> None:
    ranks = 1
    for size in mesh.values():
        ranks *= size
    for wrong in run(trial, mesh, range(80), world_size=ranks, deadline=120):
        assert not wrong, "\n".join(wrong[:5])
