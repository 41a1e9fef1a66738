"""The picture of a completed sharding: for which modules how much travels, over which axes, forward and backward."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merak._extras import require

if TYPE_CHECKING:
    from merak.sharding.completion import Completion

_COLOURS = ("#4c8bf5", "#e8833a", "#34a853", "#c9b458", "#9b59b6")
_MOST_ROWS = 40


def draw(completion: Completion, path: str | Path) -> None:
    """A bar for each kind of module, layers alike taken together: backward to the left, forward to the right.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="viz").use("Agg")
    plt: Any = require("matplotlib.pyplot", extra="viz")
    rows = bytes_of_modules(completion)
    figure, axes = plt.subplots(figsize=(11, 1.6 + 0.28 * max(1, len(rows))))
    names = list(dict.fromkeys(axis for row in rows.values() for _, axis in row))
    for number, (axis, colour) in enumerate(zip(names, itertools.cycle(_COLOURS), strict=False)):
        for sign, way in ((1, "forward"), (-1, "backward")):
            before = [sum(row.get((way, other), 0.0) for other in names[:number]) / 1e6 for row in rows.values()]
            width = [sign * row.get((way, axis), 0.0) / 1e6 for row in rows.values()]
            label = axis if sign == 1 else None
            axes.barh(list(rows), width, left=[sign * one for one in before], color=colour, label=label)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel("MB that a rank sends: backward | forward")
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.tick_params(axis="y", labelsize=7)
    mesh = " x ".join(f"{name} {size}" for name, size in completion.mesh.items())
    axes.set_title(f"What travels in a step on a mesh {mesh}", fontsize=10)
    axes.legend(title="axis", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def bytes_of_modules(completion: Completion) -> dict[str, dict[tuple[str, str], float]]:
    """By kind of module, those that send nothing left out: bytes by direction and axis. Numbers in names become `*`."""
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for operation, reshard in completion.reshards_of_operations():
        stack = list((operation.node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]).removeprefix("model.") if stack else "(loss)"
        name = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path) or "(model)"
        row = rows.setdefault(name, {(way, axis): 0.0 for way in ("forward", "backward") for axis in completion.mesh})
        for way, nbytes in (("forward", reshard.nbytes), ("backward", reshard.backward_nbytes)):
            row[way, reshard.axis] = row.get((way, reshard.axis), 0.0) + nbytes
    most = sorted(rows, key=lambda name: -sum(rows[name].values()))[:_MOST_ROWS]
    return {name: row for name, row in rows.items() if name in most}
