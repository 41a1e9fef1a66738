"""The records as a picture: for every collective the ratio to the bound, over message size or over hosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merak._extras import require

from .record import Record
from .table import emulated_note, format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE: dict[str, dict[str, Any]] = {
    "merak": {"color": "tab:blue", "marker": "o"},
    "gloo": {"color": "tab:orange", "marker": "s"},
}
# Shorter messages are a matter of latency; their ratio to the bound of the bandwidth would only stretch the axis.
_SHORTEST = 1 << 20


def draw_sizes(records: Sequence[Record], hosts: int, path: Path) -> None:
    """Time / bound over message size, at one number of hosts with one rank each."""
    chosen = [r for r in records if r.hosts == hosts == r.ranks and r.ratio is not None and r.bytes >= _SHORTEST]
    _draw(chosen, lambda r: r.bytes, "message size", f"time / bound on {hosts} hosts, {_link(chosen)}", path)


def draw_hosts(records: Sequence[Record], size: int, path: Path) -> None:
    """Time / bound over the number of hosts, with one rank each, at one message size."""
    chosen = [r for r in records if r.bytes == size and r.hosts == r.ranks and r.ratio is not None]
    _draw(chosen, lambda r: r.hosts, "hosts", f"time / bound of {format_size(size)}, {_link(chosen)}", path)


def _link(records: Sequence[Record]) -> str:
    return f"{records[0].rate / 1e9:g} Gbit/s" if records else ""


def _draw(records: Sequence[Record], across: Callable[[Record], int], label: str, title: str, path: Path) -> None:
    if not records:
        raise ValueError(f"nothing was measured that {path} could show")
    pyplot = require("matplotlib.pyplot", extra="viz")
    names = list(dict.fromkeys(record.name for record in records))
    rows = -(-len(names) // 4)
    figure, grid = pyplot.subplots(rows, 4, figsize=(13, 3 * rows), sharex=True, squeeze=False, layout="constrained")
    for axes, name in zip(grid.flat, names, strict=False):
        _draw_collective(axes, [record for record in records if record.name == name], across)
        axes.set_title(name)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    grid.flat[0].legend()
    figure.suptitle(title)
    figure.supxlabel(f"{label}\n{emulated_note()}", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_collective(axes: Axes, records: Sequence[Record], across: Callable[[Record], int]) -> None:
    axes.axhline(1.0, color="black", linewidth=0.8)
    for backend in dict.fromkeys(record.backend for record in records):
        points = sorted((across(r), r.ratio or 0.0) for r in records if r.backend == backend)
        axes.plot([x for x, _ in points], [y for _, y in points], label=backend, **_STYLE.get(backend, {}))
    ticks = sorted({across(record) for record in records})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [format_size(tick) if tick >= _SHORTEST else str(tick) for tick in ticks], rotation=45)
    axes.minorticks_off()
    axes.set_ylim(bottom=0.9)
    axes.grid(alpha=0.3)
