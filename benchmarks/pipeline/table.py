"""The tables of ``merak bench pipeline``: a case's ways beside each other, and claims beside what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from merak._extras import require

from .cases import BACKENDS, CASES, merak_way, runtime_way, torch_way

Line = dict[str, Any]
"""What the worker prints."""
BASELINE = torch_way("1f1b", "gloo")
SPEEDUPS = (
    ("slow boundaries", merak_way("eager"), BASELINE, 1.5, 1.605),
    ("slow boundaries", merak_way("eager"), merak_way("1f1b"), 1.5, 1.605),
    ("recompute", merak_way("shifted"), BASELINE, 1.12, 44 / 38),
)
"""Case, a way, another; how many times faster it must be, and how many times by simulation, where nobody waits for what
it sends."""
MOST_OFF = 0.03
"""Of a measured step from the simulated one."""


def table(lines: list[Line]) -> Any:
    """The ways of a case."""
    first = lines[0]
    forward_ms = first["forward_s"] * 1e3
    title = f"{first['case']}: {first['ranks']} ranks, {first['microbatches']} micro-batches, F = {forward_ms:g} ms"
    title += f", messages of {first['message_bytes']} bytes = {first['message_bytes'] / first['goodput'] * 1e3:.1f} ms"
    title += ", everything recomputed" if first["recompute"] else ""
    caption = "compute is emulated; seconds of the slowest rank"
    shown = require("rich.table", extra="viz").Table(title=title, caption=caption)
    columns = ("way", "median s", "fastest", "slowest", "simulated", "measured / it", "bubble", "simulated", "MB out")
    for column in (*columns, f"over {BASELINE}"):
        shown.add_column(column, justify="left" if column == "way" else "right", no_wrap=column == "way")
    medians = {line["way"]: median(line) for line in lines}
    for line in lines:
        times = np.array(line["times"])
        cells = [f"{second:.3f}" for second in (medians[line["way"]], times.min(), times.max())]
        simulated = [""] * 2
        if "simulated_s" in line:
            simulated = [f"{line['simulated_s']:.3f}", f"{medians[line['way']] / line['simulated_s']:.3f}"]
        bubbles = [f"{bubble(line):.1%}", f"{line['simulated_bubble']:.1%}" if "simulated_bubble" in line else ""]
        faster = f"{medians[BASELINE] / medians[line['way']]:.3f}" if BASELINE in medians else ""
        shown.add_row(line["way"], *cells, *simulated, *bubbles, f"{max(line['left']) / 1e6:.2f}", faster)
    return shown


def median(line: Line) -> float:
    """Seconds of a step."""
    return float(np.median(line["times"]))


def bubble(line: Line) -> float:
    """The share of the ranks' time, in the step that `spans` shows, in which they did not compute."""
    busy: float = sum(end - begin for rank in line["spans"] for _, _, _, begin, end in rank)
    step = float(sorted(line["times"])[len(line["times"]) // 2])
    return 1 - busy / (len(line["spans"]) * step)


def claims(lines: list[Line]) -> Any:
    """What is claimed, wanted and measured."""
    shown = require("rich.table", extra="viz").Table(title="claims")
    for column in ("case", "claim", "wanted", "measured", "by simulation", "holds"):
        shown.add_column(column, justify="left" if column in ("case", "claim") else "right")
    for case in dict.fromkeys(line["case"] for line in lines):
        of_case = {line["way"]: line for line in lines if line["case"] == case}
        for claim, wanted, measured, simulated, holds in _claims_of(case, of_case):
            shown.add_row(case, claim, wanted, measured, simulated, "yes" if holds else "NO")
    return shown


def _claims_of(case: str, lines: dict[str, Line]) -> list[tuple[str, str, str, str, bool]]:
    found = []
    for name, way, other, wanted, simulated in SPEEDUPS:
        if case == name and {way, other} <= lines.keys():
            ratio = median(lines[other]) / median(lines[way])
            found.append((f"{way} over {other}", f">= {wanted:g}", f"{ratio:.3f}", f"{simulated:.3f}", ratio >= wanted))
    for way, line in lines.items():
        if "simulated_s" in line:
            ratio = median(line) / line["simulated_s"]
            holds = abs(ratio - 1) <= MOST_OFF
            found.append((f"{way} over its simulation", f"1 +- {MOST_OFF}", f"{ratio:.3f}", "1", holds))
    for kind in CASES[case].kinds:
        for peer in (name(kind, backend) for name in (torch_way, runtime_way) for backend in BACKENDS):
            if {merak_way(kind), peer} <= lines.keys():
                ratio = median(lines[peer]) / median(lines[merak_way(kind)])
                found.append((f"{merak_way(kind)} over {peer}", ">= 1", f"{ratio:.3f}", "", ratio >= 1))
    return found
