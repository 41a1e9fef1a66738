"""The text of `ReshardPlan.explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from merak.resharding.layouts import ranks_text, text_of

if TYPE_CHECKING:
    from merak.resharding.plan import ReshardPlan

_MOST_LAYOUTS = 12
_MOST_HOSTS = 40


def size_text(nbytes: float) -> str:
    """ "3.2 MB": decimal units, as those of bandwidths."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def seconds_text(seconds: float) -> str:
    """ "12.3 ms"."""
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.3f} ms"


def text(plan: ReshardPlan, most_lines: int) -> str:
    """See `ReshardPlan.explain`."""
    return "\n".join(_lines(plan, most_lines))


def _lines(plan: ReshardPlan, most_lines: int) -> Iterator[str]:
    topology = plan.topology
    total = sum(move.nbytes for move in plan.moves)
    explanations, plans = plan.planned.explanations(), plan.planned.plans()
    units = sum(bucket[4] for one in explanations for bucket in one["buckets"])
    buckets = sum(len(one["buckets"]) for one in explanations)
    yield (
        f"{count_text(len(plan.moves), 'tensor')}, {size_text(total)}, {len(topology.host_of)} ranks on "
        f"{count_text(len(topology.hosts), 'host')}; {count_text(units, 'unit')} in {count_text(buckets, 'bucket')}"
    )
    of_bound = f", {plan.seconds / plan.lower_bound_s:.3f} of it" if plan.lower_bound_s > 0 else ""
    yield f"lower bound {seconds_text(plan.lower_bound_s)}; this plan {seconds_text(plan.seconds)}{of_bound}"
    yield ""
    yield from _layout_lines(plan)
    for number, (explanation, one) in enumerate(zip(explanations, plans, strict=True)):
        if len(plans) > 1:
            yield f"\npart {number + 1} of {len(plans)}: {count_text(len(explanation['moves']), 'tensor')}"
        yield from _part_lines(plan, explanation, one, most_lines)


def count_text(number: int, noun: str) -> str:
    """ "2 tensors"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _layout_lines(plan: ReshardPlan) -> Iterator[str]:
    ways: dict[tuple[Any, Any], list[str]] = {}
    for move in plan.moves:
        ways.setdefault((move.source, move.target), []).append(move.name)
    for (source, target), names in list(ways.items())[:_MOST_LAYOUTS]:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"{shown}: {text_of(source)} -> {text_of(target)}"
    if len(ways) > _MOST_LAYOUTS:
        yield f"... and {len(ways) - _MOST_LAYOUTS} more ways"


def _part_lines(plan: ReshardPlan, explanation: Any, one: Any, most_lines: int) -> Iterator[str]:
    transfers, chosen, candidates, bound_s = one
    yield ""
    yield f"{'kind of plan':36} {'in flight':>9} {'time':>12} {'of bound':>9}"
    for candidate in candidates:
        shape, cut, balanced, in_flight, seconds = candidate
        name = shape + (", cut" if cut else "") + (", senders balanced" if balanced else "")
        ratio = f"{seconds / bound_s:9.3f}" if bound_s > 0 else f"{'':9}"
        yield f"{name:36} {in_flight:9} {seconds_text(seconds):>12} {ratio}{' <-' if candidate == chosen else ''}"
    yield ""
    yield f"{'host':>6} {'out':>10} {'in':>10} {'has to come in':>15}"
    rows = list(zip(explanation["bytes_out"], explanation["bytes_in"], explanation["least_bytes_in"], strict=True))
    for host, (out, into, least) in enumerate(rows[:_MOST_HOSTS]):
        yield f"{host:6} {size_text(out):>10} {size_text(into):>10} {size_text(least):>15}"
    if len(rows) > _MOST_HOSTS:
        yield f"... and {len(rows) - _MOST_HOSTS} more hosts"
    if not transfers:
        yield "\nNothing has to travel: every rank has what it wants."
        return
    yield ""
    yield f"{'begin':>11} {'end':>11} {'bytes':>9}  what and how, in the order in which ranks start it"
    for transfer in transfers[:most_lines]:
        yield _transfer_line(plan, explanation, transfer)
    if len(transfers) > most_lines:
        yield f"... and {len(transfers) - most_lines} more transfers"


def _transfer_line(plan: ReshardPlan, explanation: Any, transfer: Any) -> str:
    bucket, begin, end, _, chain, hops, start_s, end_s = transfer
    moves = explanation["buckets"][bucket][0]
    names = ", ".join(plan.moves[move].name for move in moves[:2]) + (
        f" and {len(moves) - 2} more" if len(moves) > 2 else ""
    )
    return (
        f"{seconds_text(start_s):>11} {seconds_text(end_s):>11} {size_text(end - begin):>9}  {names}: "
        f"{relay_text(chain, hops)}"
    )


def relay_text(chain: Sequence[int], hops: Sequence[tuple[int, int]]) -> str:
    """ "0 + 4 = 4 -> 8 -> (9-11)": ranks whose values are added up, and the tree of those who get the result."""
    children: dict[int, list[int]] = {}
    for sender, receiver in hops:
        children.setdefault(sender, []).append(receiver)
    tree = _tree(chain[-1], children)
    return tree if len(chain) == 1 else f"{' + '.join(map(str, chain))} = {tree}"


def _tree(root: int, children: dict[int, list[int]]) -> str:
    text, rank = str(root), root
    while rank in children:
        *leaves, last = sorted(children[rank], key=lambda child: child in children)
        if last not in children:
            return f"{text} -> ({ranks_text([*leaves, last])})" if leaves else f"{text} -> {last}"
        beside = f" ({ranks_text(leaves)}) and" if leaves else ""
        text, rank = f"{text} ->{beside} {last}", last
    return text
