"""Parts of an axis, written as Shardy writes them: of the 8 ranks of "tp", "tp:(1)2" are the two halves, and "tp:(2)4"
the four places in each.

A dimension may be divided over a part of an axis: 4 heads of keys over "tp:(1)4", which pairs of ranks then share. And
a reshape may need it: of 8 x 8 elements whose rows lie on 8 ranks, seen as 4 x 16, the rows lie on "tp:(1)4" and the
columns on "tp:(4)2".

For that the mesh is *refined*: an axis of which anyone names a part becomes several, cut wherever a part begins or
ends. Whoever names the axis means all of them, major to minor.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_WRITTEN = re.compile(r"(.+):\((\d+)\)(\d+)")


class SubAxis(NamedTuple):
    """Part of an axis: `size` places, in each of the `before` major ones."""

    axis: str
    before: int
    size: int

    def __str__(self) -> str:
        return f"{self.axis}:({self.before}){self.size}"


def parse(name: str) -> SubAxis | None:
    """The part of an axis that a name stands for; None if it is that of a whole axis."""
    match = _WRITTEN.fullmatch(name)
    return SubAxis(match[1], int(match[2]), int(match[3])) if match else None


def refine(mesh: Mapping[str, int], named: Iterable[tuple[str, str]]) -> dict[str, int]:
    """A mesh whose axes are cut where their parts begin and end.

    Args:
        mesh: sizes of axes by name.
        named: names of axes and of their parts, and who names each, for the errors.

    Raises:
        ValueError: a part does not fit its axis, or overlaps another so that neither is made of whole parts.
    """
    cuts: dict[str, dict[int, str]] = {}
    for name, label in named:
        part = parse(name)
        if part is None or name in mesh:
            continue
        if part.axis not in mesh:
            raise ValueError(f"{label}: the mesh has no axis {part.axis!r}: it has {', '.join(map(repr, mesh))}")
        ranks, end = mesh[part.axis], part.before * part.size
        if part.before < 1 or part.size < 2 or ranks % end:
            raise ValueError(
                f"{label}: {name} is no part of {part.axis!r}, which has {ranks} ranks: in {part.axis}:(m)n, n is 2 or "
                "more, and m times n divides their number"
            )
        for cut in (part.before, end):
            cuts.setdefault(part.axis, {}).setdefault(cut, label)
    refined: dict[str, int] = {}
    for axis, ranks in mesh.items():
        refined |= _parts(axis, ranks, cuts[axis]) if axis in cuts else {axis: ranks}
    return refined


def _parts(axis: str, ranks: int, cuts: dict[int, str]) -> dict[str, int]:
    ends = sorted(cuts.keys() | {1, ranks})
    for one, other in itertools.pairwise(ends):
        if other % one:
            raise ValueError(
                f"{cuts[one]} and {cuts[other]} name parts of {axis!r} that overlap: one ends after {one} places and "
                f"the other after {other}, of which neither is a multiple of the other"
            )
    sizes = {SubAxis(axis, one, other // one): other // one for one, other in itertools.pairwise(ends)}
    return {str(part): size for part, size in sizes.items()} if len(sizes) > 1 else {axis: ranks}


def meant(mesh: Mapping[str, int], name: str) -> list[int]:
    """The numbers of the axes of a refined mesh that a name stands for, major to minor; none if there are none."""
    if name in mesh:
        return [list(mesh).index(name)]
    wanted, found = parse(name), []
    if wanted is not None and wanted == (wanted.axis, 1, mesh.get(wanted.axis)):
        return [list(mesh).index(wanted.axis)]
    for number, part in enumerate(map(parse, mesh)):
        if part is None or part.axis != (name if wanted is None else wanted.axis):
            continue
        inside = wanted is None or wanted.before <= part.before < wanted.before * wanted.size
        found += [number] if inside else []
    return found


def over_whole_axes(mesh: Mapping[str, int], steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Steps between layouts, in which sums over all parts of an axis, one after the other, are one sum over the axis.

    Args:
        mesh: refined.
        steps: as C++ gives them, each over one axis.
    """
    merged: list[Mapping[str, Any]] = []
    for kind, group in itertools.groupby(steps, lambda step: step["kind"]):
        of_kind = list(group)
        if kind not in ("all_reduce", "vary"):
            merged += of_kind
            continue
        by_axis: dict[str, list[Mapping[str, Any]]] = {}
        for step in of_kind:
            name = list(mesh)[step["axes"][0]]
            part = parse(name)
            by_axis.setdefault(name if part is None else part.axis, []).append(step)
        for name, parts in by_axis.items():
            merged += [_sum_of(mesh, parts)] if len(parts) == len(meant(mesh, name)) > 1 else parts
    return merged


def _sum_of(mesh: Mapping[str, int], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    axes = sorted(step["axes"][0] for step in parts)
    sizes = list(mesh.values())
    first, all_ranks = parts[0], math.prod(sizes[axis] for axis in axes)
    ranks = sizes[first["axes"][0]]
    longer = (1 - 1 / all_ranks) / (1 - 1 / ranks)  # a sum over n ranks sends 1 - 1/n of the tensor, twice
    return {
        **first,
        "axes": axes,
        "nbytes": first["nbytes"] * longer,
        "backward_nbytes": first["backward_nbytes"] * longer,
    }


def share_sums(uses: Sequence[list[Mapping[str, Any]]]) -> None:
    """Has the uses of one tensor share the sum of its gradients.

    Queries are computed by all ranks of an axis, each with another part, and keys by a part of the axis, several ranks
    the same. Their gradients are added up over the axis and over the part: two sums. If of the equal ones all but one
    count as zero, one sum over the axis is of both.

    Args:
        uses: the steps before each, changed in place.
    """
    whole = [step for steps in uses for step in steps[:1] if step["kind"] == "vary" and len(step["axes"]) > 1]
    for steps in uses:
        axes = {axis for step in steps for axis in step["axes"]}
        wide = next((step for step in whole if axes < set(step["axes"])), None)
        if wide is not None and steps and all(step["kind"] == "vary" for step in steps):
            rest = sorted(set(wide["axes"]) - axes)
            steps[:] = [wide, {"kind": "once", "axes": rest, "nbytes": 0.0, "backward_nbytes": 0.0}]
