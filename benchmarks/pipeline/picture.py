"""Draws what ranks computed when: measured steps, and under each its simulation, on the same axis of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from merak._extras import require
from merak.pipeline.chart import COMPUTE
from merak.pipeline.picture import COLOURS

from .cases import CASES, RANKS, simulated_kind
from .table import Line, median

PICTURED = {
    "slow boundaries": ("torch 1f1b (gloo)", "merak 1f1b", "merak eager"),
    "recompute": ("torch 1f1b (gloo)", "merak shifted"),
}
"""By case: the ways drawn, if they were measured."""

NAMES = {"F": "forward", "B": "backward", "R": "recompute"}

Bars = list[list[tuple[str, float, float]]]
"""By rank: kind, begin, end."""


class Panel(NamedTuple):
    """A row of the picture."""

    title: str
    bars: Bars
    seconds: float


def draw(lines: list[Line], path: Path) -> None:
    """Writes the picture: .png, .svg, .pdf."""
    require("matplotlib", extra="viz").use("Agg")
    plt: Any = require("matplotlib.pyplot", extra="viz")
    groups = [found for case in PICTURED if (found := _panels(case, lines))]
    panels = [panel for group in groups for panel in group]
    if not panels:
        raise ValueError(f"nothing to draw: of {list(PICTURED)}, none of the ways that are drawn was measured")
    figure, rows = plt.subplots(len(panels), figsize=(14, 0.7 + 1.15 * len(panels)), squeeze=False)
    ends = [max(panel.seconds for panel in group) for group in groups for _ in group]
    for axes, panel, end in zip(rows[:, 0], panels, ends, strict=True):
        _draw_panel(axes, panel, end)
    rows[-1, 0].set_xlabel(f"seconds; a forward sleeps {lines[0]['forward_s'] * 1e3:g} ms")
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=COLOURS[kind]) for kind in NAMES]
    figure.legend(handles, [NAMES[kind] for kind in NAMES], loc="upper right", ncols=3, fontsize=8, frameon=False)
    figure.suptitle("Emulated devices on 4 emulated hosts: what each rank computes", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panels(case: str, lines: list[Line]) -> list[Panel]:
    found = []
    of_case = {line["way"]: line for line in lines if line["case"] == case}
    for way in PICTURED[case]:
        if way in of_case:
            line = of_case[way]
            title = f"{case}, {way}, measured: {median(line):.2f} s"
            found.append(Panel(title, _measured(line), float(np.max(line["times"]))))
            if kind := simulated_kind(way):
                found.append(_simulated(case, way, kind, line))
    return found


def _measured(line: Line) -> Bars:
    return [[(kind, begin, end) for _, kind, _, begin, end in spans] for spans in line["spans"]]


def _simulated(case: str, way: str, kind: str, line: Line) -> Panel:
    of_case = CASES[case]
    schedule = of_case.schedule(kind, line["microbatches"])
    simulation = schedule.simulate(of_case.costs(kind, line["forward_s"], line["goodput"]))
    bars = [
        [(action.kind, start, end) for action, start, end in simulation.spans(rank) if action.kind in COMPUTE]
        for rank in range(RANKS)
    ]
    return Panel(f"{case}, {way}, simulated: {simulation.seconds:.2f} s", bars, simulation.seconds)


def _draw_panel(axes: Any, panel: Panel, end: float) -> None:
    for rank, bars in enumerate(panel.bars):
        for kind in sorted({kind for kind, _, _ in bars}):
            spans = [(begin, finish - begin) for of, begin, finish in bars if of == kind]
            axes.broken_barh(spans, (rank - 0.42, 0.84), facecolor=COLOURS[kind], edgecolor="white", linewidth=0.3)
    axes.set_title(panel.title, fontsize=9, loc="left", pad=3)
    axes.set_yticks(range(RANKS), [f"rank {rank}" for rank in range(RANKS)], fontsize=7)
    axes.set_ylim(RANKS - 0.5, -0.5)
    axes.set_xlim(0, end)
    axes.tick_params(left=False, labelsize=7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
