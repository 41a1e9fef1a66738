"""What a completed sharding says of itself: the text of `Completion.explain`, and what `complete` warns of."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import fx

from merak.resharding.explaining import count_text, size_text

if TYPE_CHECKING:
    from merak.sharding.completion import Completion, Reshard


def complaints(completion: Completion) -> Iterator[str]:
    """What a user hardly means. On a mesh of one rank all is as it has to be."""
    if math.prod(completion.mesh.values()) == 1:
        return
    found = [_idle_text(wish) for wish in completion.idle]
    found += [
        f"{label} is not followed, since an earlier one had settled it otherwise: {instead}. Put it first, give it a "
        "lower priority (by default the place in the list), or leave it out"
        for label, by_hand, instead in completion.unfollowed()
        if by_hand
    ]
    if not found and not _divided(completion):
        found.append("nothing is divided, in spite of the annotations: every rank computes all of the model")
    yield from found


def _idle_text(wish: object) -> str:
    looks_for = getattr(wish, "__doc__", None) if type(wish).__name__ == "function" else None
    return f"{getattr(wish, '__name__', repr(wish))} finds nothing to divide" + (
        f": it looks for {looks_for}" if looks_for else ""
    )


def _divided(completion: Completion) -> list[fx.Node]:
    return [
        node for node in completion.graph.values if any(axes for dim in completion.layouts[node] for _, axes in dim)
    ]


def text(completion: Completion, most: int, remedies: bool) -> str:
    """See `Completion.explain`."""
    return "\n".join(_lines(completion, most, remedies))


def _lines(completion: Completion, most: int, remedies: bool) -> Iterator[str]:
    mesh = ", ".join(f"{name} {size}" for name, size in completion.graph.mesh.items())
    divided = _divided(completion)
    yield f"{len(divided)} of {len(completion.graph.values)} tensors are divided over the mesh ({mesh})"
    yield ""
    yield from _parameter_lines(completion, [node for node in divided if completion.graph.is_parameter(node)], most)
    yield ""
    reshards = completion.reshards()
    yield from _travel_lines(completion, [one for one in reshards if not one.parameter], most, remedies)
    yield from _sum_lines([one for one in reshards if one.parameter])
    yield from _statistics_lines(completion)
    for name, nodes in completion.by_dtensor().items():
        yield f"divided by DTensor's rule: {name}: {', '.join(nodes[:5])}"
    for name, nodes in completion.without_rules().items():
        yield f"computed whole on every rank, since {name} has no rule: {', '.join(nodes[:5])}"
    for label, _, instead in completion.unfollowed():
        yield f"not followed, since an earlier one had settled it otherwise: {label}: {instead}"


def _parameter_lines(completion: Completion, parameters: Sequence[fx.Node], most: int) -> Iterator[str]:
    rows = [(completion.name(node), completion.layout_text(node), completion.because(node)) for node in parameters]
    rows = [("parameter", "layout", "because of"), *rows[:most]]
    names, layouts = (max(len(row[column]) for row in rows) for column in (0, 1))
    yield from (f"{name:<{names}}  {layout:<{layouts}}  {reason}" for name, layout, reason in rows)
    if len(parameters) > most:
        yield f"... and {len(parameters) - most} more"


def _travel_lines(completion: Completion, reshards: Sequence[Reshard], most: int, remedies: bool) -> Iterator[str]:
    yield f"{'forward':<14} {'backward':<14} {'axis':<4} {'bytes':>8} {'back':>8}  tensor: why"
    kinds = set()
    for one in sorted(reshards, key=lambda one: -one.nbytes - one.backward_nbytes)[:most]:
        there, back = (size_text(nbytes) if nbytes else "-" for nbytes in (one.nbytes, one.backward_nbytes))
        yield (
            f"{one.kind or '-':<14} {one.backward_kind or '-':<14} {one.axis:<4} {there:>8} {back:>8}  "
            f"{one.tensor}: {one.cause}"
        )
        kind = re.sub(r"\d+", "*", " ".join((one.tensor, one.operation, one.kind, one.backward_kind, one.axis)))
        if remedies and kind not in kinds and (found := completion.remedy(one)) is not None:
            yield f"    {found}"
        kinds.add(kind)
    if len(reshards) > most:
        yield f"... and {len(reshards) - most} more"


def _sum_lines(reshards: Sequence[Reshard]) -> Iterator[str]:
    """Of parameters: by axis and kind of collective, how many there are and the bytes that a rank sends in them."""
    sums: dict[tuple[str, str], list[float]] = {}
    for one in reshards:
        for kind, nbytes in ((one.kind, one.nbytes), (one.backward_kind, one.backward_nbytes)):
            if kind:
                sums.setdefault((one.axis, kind), []).append(nbytes)
    if not sums:
        return
    total = sum(one.nbytes + one.backward_nbytes for one in reshards)
    yield f"and of {count_text(len({one.tensor for one in reshards}), 'parameter')}, {size_text(total)} a step:"
    for (axis, kind), several in sums.items():
        yield f"    over {axis} {count_text(len(several), kind)} of {size_text(sum(several))} in all"


def _statistics_lines(completion: Completion) -> Iterator[str]:
    """Batch norms to which rows come from other ranks."""
    names = []
    for operation, way in zip(completion.graph.operations, completion.ways, strict=True):
        node = operation.operands[0] if operation.name == "batch_norm" else None
        if node in completion.layouts and any(axes for _, axes in completion.layouts[node][0]):
            names += [operation.node.name] if any(step["kind"] == "all_gather" for step in way["before"][0]) else []
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"the batch is gathered for batch norms, whose statistics are of all its rows: {shown}"
