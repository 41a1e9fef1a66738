"""What is alive at each moment of a forward, by what is chosen.

What autograd saves stays from the operation that saves it first until its backward, so at each moment there is all that
has been saved until then. What it does not save is there until it was taken last. Parameters, gradients and the
optimizer's state are always there. The shares are those in which an operation takes or makes a tensor: a tensor that
several operations save counts as the first of them has it.

Most moments need not be looked at: one at which no choice has more alive than at another one cannot be the peak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import fx

from merak.planner.layout_program import Memory, Vector

if TYPE_CHECKING:
    from merak.planner.layout_model import LayoutModel

Alive = tuple[str, int, int, int, Vector]
"""A tensor's name, the first and the last moment, its variable (-1 for none), and bytes by choice."""


def memory_of(model: LayoutModel) -> Memory:
    """Of a program."""
    trunk = model.workload.prepared.cuttable.trunk
    moments = len(trunk)
    fixed = np.zeros(moments)
    nbytes = [np.zeros((moments, size)) for size in model.sizes]
    for _, first, last, variable, by_choice in alive(model):
        if variable < 0:
            fixed[first : last + 1] += by_choice[0]
        else:
            nbytes[variable][first : last + 1] += by_choice
    kept = _not_below_others(np.column_stack([fixed, *nbytes])) if moments else []
    names = tuple(trunk[moment].name for moment in kept)
    return Memory(names, fixed[kept], tuple(one[kept] for one in nbytes), model.setting.memory)


def alive(model: LayoutModel) -> Iterator[Alive]:
    """All tensors."""
    last = len(model.workload.prepared.cuttable.trunk) - 1
    saved: set[fx.Node] = set()
    yield from _saved(model, saved)
    if model.setting.passing:
        yield from _passing(model, saved)
    for node in model.graph.values:
        if model.graph.is_parameter(node):
            key = model.graph.captured.sources[node.name].key
            size = model.workload.parameter_bytes[key] * model.setting.state_factor
            if node in model.layouts_of:
                variable, layouts = model.layouts_of[node]
                shares = np.array([model.strategies.share(node, layout) for layout in layouts])
                yield key, 0, last, variable, size * shares
            else:
                yield key, 0, last, -1, np.array([size])


def _saved(model: LayoutModel, saved: set[fx.Node]) -> Iterator[Alive]:
    workload, cuttable = model.workload, model.workload.prepared.cuttable
    numbers = {operation.node: number for number, operation in enumerate(model.graph.operations)}
    for node in cuttable.trunk:
        for line, keepers in workload.work[node].saved if node in workload.gradients else ():
            saved.update(value for value in keepers.values() if value is not None)
            keeper, value = next(iter(keepers.items()))
            size, last = line.at(model.setting.rows), len(cuttable.trunk) - 1
            name, first = (value or keeper).name, cuttable.position.get(keeper, 0)
            if keeper not in numbers:
                yield name, first, last, -1, np.array([size])
                continue
            number = numbers[keeper]
            variable, choices = model.variable_of[number]
            strategies = [model.options[number][choice] for choice in choices]
            shares = [
                one.share if value is None else model.touched(number, one).get(value, one.share) for one in strategies
            ]
            yield name, first, last, variable, size * np.array(shares)


def _passing(model: LayoutModel, saved: set[fx.Node]) -> Iterator[Alive]:
    """What is not saved, from its maker to its last taker."""
    workload, position = model.workload, model.workload.prepared.cuttable.position
    for node, taken in model.taken.items():
        if node in saved or model.graph.is_parameter(node) or node not in position:
            continue
        if node in workload.work and workload.work[node].is_view:
            continue
        variable, layouts = model.layouts_of[node]
        shares = np.array([model.strategies.share(node, layout) for layout in layouts])
        ends = [position[model.graph.operations[number].node] for number, _ in taken.takers]
        yield node.name, position[node], max(ends), variable, workload.nbytes[node].at(model.setting.rows) * shares


def _not_below_others(rows: Vector) -> list[int]:
    """Numbers of the rows of which none is as large everywhere as another, in order."""
    kept: list[int] = []
    for number in range(len(rows) - 1, -1, -1):
        if not any((rows[other] >= rows[number]).all() for other in kept):
            kept.append(number)
    return sorted(kept)


def largest(model: LayoutModel, chosen: Sequence[int], moment: str, most: int = 5) -> list[tuple[str, float]]:
    """The largest tensors that are alive at a moment, by name, with a rank's bytes."""
    cuttable = model.workload.prepared.cuttable
    at = next(number for number, node in enumerate(cuttable.trunk) if node.name == moment)
    found = [
        (name, float(by_choice[0] if variable < 0 else by_choice[chosen[variable]]))
        for name, first, last, variable, by_choice in alive(model)
        if first <= at <= last
    ]
    return sorted(found, key=lambda pair: -pair[1])[:most]
