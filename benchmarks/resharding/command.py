"""The command line of ``merak bench resharding``: tensors from one layout to another on emulated hosts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collectives.table import emulated_note
from benchmarks.testbed import Cluster, LaunchError, Topology, UnavailableError, json_lines
from benchmarks.testbed.topology import INTERFACE
from merak._extras import require

CHECKOUT = Path(__file__).resolve().parents[2]
TABLE_WIDTH = 140

Line = dict[str, Any]
"""What the worker prints."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; their defaults are the comparison of the documentation."""
    add = parser.add_argument
    add("--cases", nargs="+", metavar="CASE", help="default: all of benchmarks/resharding/cases.py")
    add("--ways", nargs="+", metavar="WAY", help='such as merak "striped, all-gather (gloo)"; default: all')
    add("--rate", type=float, default=100.0, help="Mbit/s of every host's link (default 100)")
    add("--repeats", type=int, default=5, help="repetitions (default 5)")
    add("--calibrate", action="store_true", help="plans reckon with what is measured, not with 1 Gbit/s")
    add("--realtime", action="store_true", help="ranks go before this machine's other programs while measured")
    add("--timeout", type=float, default=1200.0, help="seconds (default 1200)")
    add("--output", type=Path, metavar="FILE", help="write the lines there as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure and show; the exit status."""
    console = require("rich.console", extra="viz").Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    print(emulated_note(), flush=True)
    try:
        console.print(_table(_measure(options)))
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"merak bench: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(options: argparse.Namespace) -> list[Line]:
    from .cases import HOSTS, RANKS_PER_HOST, all_cases
    from .ways import ways_of
    from .worker import Suite

    cases = all_cases()
    ways = list(dict.fromkeys(way for case in cases.values() for way in ways_of(case)))
    for what, chosen, known in (("case", options.cases, list(cases)), ("way", options.ways, ways)):
        for name in chosen or ():
            if name not in known:
                raise ValueError(f"there is no {what} {name!r}; choose of {', '.join(known)}")
    topology = Topology(HOSTS, round(options.rate * 1e6))
    suite = Suite(
        tuple(options.cases or cases),
        tuple(options.ways or ways),
        options.repeats,
        INTERFACE,
        topology.goodput,
        options.calibrate,
        options.realtime,
    )
    with Cluster(topology) as cluster:
        program = ["-m", "benchmarks.resharding.worker", suite.to_json()]
        how = {"ranks": RANKS_PER_HOST, "timeout": options.timeout, "cwd": str(CHECKOUT)}
        return json_lines(cluster, program, output=options.output, **how)


def _table(lines: list[Line]) -> Any:
    shown = require("rich.table", extra="viz").Table(title="seconds, the slowest rank, median; 5 hosts of 4 ranks")
    for column in (
        "case",
        "way",
        "s",
        "fastest",
        "slowest",
        "bound",
        "of bound",
        "merak is x faster",
        "MB out, busiest",
    ):
        shown.add_column(column, justify="left" if column in ("case", "way") else "right")
    ours: dict[str, float] = {line["case"]: float(np.median(line["times"])) for line in lines if line["way"] == "merak"}
    before = None
    for line in lines:
        times = np.array(line["times"])
        median = float(np.median(times))
        case = line["case"] if line["case"] != before else ""
        before = line["case"]
        faster = f"{median / ours[line['case']]:.2f}" if line["case"] in ours and line["way"] != "merak" else ""
        way = f"merak: {line['plan']}" if line["way"] == "merak" else line["way"]
        cells = [f"{second:.3f}" for second in (median, times.min(), times.max(), line["bound"])]
        out = f"{max(line['left']) / 1e6:.2f}"
        shown.add_row(case, way, *cells, f"{median / line['bound']:.3f}", faster, out, end_section=False)
    return shown
