"""Where stages may begin, for a search that has no time to look at every operation.

A boundary is a *point* if about as few bytes cross it as any nearby, and there is work between it and the point before.
In a transformer these are the places between its attention and feed-forward layers, where one hidden state crosses.
"""

from __future__ import annotations

from itertools import accumulate

from merak.graph.cutting import GraphCosts

_NEARBY = 0.02
"""Of all operations, to either side."""
_ABOUT = 1.1
"""How many times the fewest bytes nearby a boundary may let cross."""


def points_of(costs: GraphCosts, most: int) -> list[int]:
    """Positions where stages may begin, but the first.

    Args:
        most: points. Where there are more, those with the least work behind the one before go.
    """
    crossing = _crossing(costs)
    allowed = [position for position, may in enumerate(costs.may_cut) if may and position]
    near = max(1, round(_NEARBY * len(costs.nodes)))
    few = [position for position in allowed if crossing[position] <= _ABOUT * _fewest(crossing, costs, position, near)]
    work = list(accumulate((node.forward_s + node.backward_input_s for node in costs.nodes), initial=0.0))
    apart = work[-1] / (4 * max(most, 1))
    kept: list[int] = []
    for position in few:
        if work[position] - work[kept[-1] if kept else 0] >= apart:
            kept.append(position)
    while len(kept) > most:
        gaps = [work[after] - work[before] for before, after in zip([0, *kept], kept, strict=False)]
        del kept[gaps.index(min(gaps))]
    return kept


def _crossing(costs: GraphCosts) -> list[float]:
    """Bytes that cross before each node, with their gradients."""
    change = [0.0] * (len(costs.nodes) + 1)
    for value in costs.values:
        nbytes = value.nbytes * (2 if value.gradient else 1)
        change[value.producer + 1] += nbytes
        change[max(value.consumers) + 1] -= nbytes
    return list(accumulate(change))[: len(costs.nodes)]


def _fewest(crossing: list[float], costs: GraphCosts, position: int, near: int) -> float:
    around = range(max(1, position - near), min(len(crossing), position + near + 1))
    return min(crossing[one] for one in around if costs.may_cut[one])
