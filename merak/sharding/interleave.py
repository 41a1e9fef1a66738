"""The order of a graph whose batch is computed in parts: what travels for one part does so while another computes.

Each part runs until it has to wait for what it has set off (`overlapped`), and then the next one runs, up to where it
has to wait. What belongs to no part (masks, sums over parts) comes as soon as it can.

A stretch between two changes is a *turn*. In the backward the turns come in reverse, and what a step sends then has to
travel during the next of them, the turn before in the forward: so the gradient that a step waits for gets the time at
which that turn began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from torch import fx

from merak.sharding import overlapped


def interleave(graph: fx.Graph) -> fx.Graph:
    """A graph with the same nodes in another order."""
    ordered = fx.Graph(graph.owning_module)
    copies: dict[fx.Node, fx.Node] = {}
    moments: list[fx.Node] = []
    for node, turn in _in_turns(graph):
        while len(moments) <= turn:
            moments.append(ordered.call_function(overlapped.moment))
        copies[node] = ordered.node_copy(node, copies.__getitem__)
        if node.target is overlapped.end and turn > 0:
            copies[node].args = (*copies[node].args, moments[turn - 1])
    return ordered


def _in_turns(graph: fx.Graph) -> Iterator[tuple[fx.Node, int]]:
    """All nodes in their new order, with the number of their turn."""
    turn, done = 0, set[fx.Node]()
    of_all: deque[fx.Node] = deque()
    of_part: dict[int, deque[fx.Node]] = {}
    for node in graph.nodes:
        part = node.meta.get("part")
        (of_all if part is None else of_part.setdefault(part, deque())).append(node)
    parts = deque(of_part[part] for part in sorted(of_part))
    waiting: fx.Node | None = None  # the step that the part whose turn it is has come to wait for
    idle = 0  # parts in a row that could do nothing
    while of_all or parts:
        if of_all and done.issuperset(of_all[0].all_input_nodes) and not (parts and of_all[0].op == "output"):
            node, idle = of_all.popleft(), 0
        elif (
            parts and parts[0] and done.issuperset(parts[0][0].all_input_nodes) and not _must_wait(parts[0][0], waiting)
        ):
            node, idle = parts[0].popleft(), 0
            waiting = None
        else:
            if parts and not parts[0]:
                parts.popleft()
            else:
                assert idle <= len(parts), "nodes of a graph need each other in a circle"
                parts.rotate(-1)
            idle += 1
            turn += 1
            waiting = parts[0][0] if parts and parts[0] else None
            continue
        done.add(node)
        yield node, turn


def _must_wait(node: fx.Node, waited: fx.Node | None) -> bool:
    """Whether a part is to let others compute before this node: it waits for what has been set off just now."""
    if node.target is not overlapped.end or node is waited:
        return False
    begun = node.args[0]
    return isinstance(begun, fx.Node) and overlapped.STEPS[begun.args[1]].forward is not None  # type: ignore[index]
