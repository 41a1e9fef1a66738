"""The command line of ``merak bench pipeline``: steps of pipelines of emulated devices, on emulated hosts.

Compute is emulated: a stage sleeps for as long as a stated device would compute. Communication is real: values cross
wires of the stated rate, one between each two neighbours (wires.py). The cases are those of `cases.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.collectives.table import emulated_note
from benchmarks.testbed import Cluster, LaunchError, Topology, UnavailableError, json_lines
from benchmarks.testbed.topology import INTERFACE
from merak._extras import require

from .cases import CASES, RANKS, all_ways
from .suite import Suite
from .table import Line, claims, table
from .wires import lay_wires

CHECKOUT = Path(__file__).resolve().parents[2]
TABLE_WIDTH = 140
EMULATED = "EMULATED COMPUTE: a forward sleeps {:g} ms and a backward twice as long, on devices that do not exist."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; their defaults are the comparison of the documentation."""
    add = parser.add_argument
    add("--cases", nargs="+", metavar="CASE", help=f"of {', '.join(map(repr, CASES))}; default: all")
    add("--ways", nargs="+", metavar="WAY", help='such as "merak eager" "torch 1f1b (gloo)"; default: those of a case')
    add("--forward-ms", type=float, default=30.0, help="milliseconds of a rank's forward (default 30)")
    add("--rate", type=float, default=500.0, help="Mbit/s of every wire (default 500)")
    add("--repeats", type=int, default=5, help="steps of each way that count, after a first (default 5)")
    add("--realtime", action="store_true", help="ranks go before this machine's other programs while measured")
    add("--timeout", type=float, default=1800.0, help="seconds (default 1800)")
    add("--output", type=Path, metavar="FILE", help="write the lines there as JSON")
    add("--read", type=Path, metavar="FILE", help="show those of an earlier run, and measure nothing")
    add("--picture", type=Path, metavar="FILE", help="draw there what ranks did when, beside the simulation")


def run(options: argparse.Namespace) -> int:
    """Measure and show; the exit status."""
    console = require("rich.console", extra="viz").Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    print(emulated_note(), flush=True)
    try:
        lines = _read(options.read) if options.read else _measure(options)
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"merak bench: {error}", file=sys.stderr)
        return 1
    print(EMULATED.format(lines[0]["forward_s"] * 1e3))
    for case in dict.fromkeys(line["case"] for line in lines):
        console.print(table([line for line in lines if line["case"] == case]))
    console.print(claims(lines))
    if options.picture:
        from .picture import draw

        draw(lines, options.picture)
    return 0


def _read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _ways(options: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    for what, chosen, known in (("case", options.cases, list(CASES)), ("way", options.ways, all_ways())):
        for name in chosen or ():
            if name not in known:
                raise ValueError(f"there is no {what} {name!r}; choose of {', '.join(known)}")
    return {name: tuple(options.ways or CASES[name].ways()) for name in options.cases or CASES}


def _measure(options: argparse.Namespace) -> list[Line]:
    ways = _ways(options)
    rate = round(options.rate * 1e6)
    goodput = Topology(RANKS, rate).goodput
    suite = Suite(ways, options.forward_ms / 1e3, goodput, options.repeats, INTERFACE, options.realtime)
    with Cluster(Topology(RANKS)) as cluster:
        lay_wires(cluster, rate)
        program = ["-m", "benchmarks.pipeline.worker", suite.to_json()]
        return json_lines(cluster, program, output=options.output, timeout=options.timeout, cwd=str(CHECKOUT))
