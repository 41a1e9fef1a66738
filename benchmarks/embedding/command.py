"""The command line of ``merak bench embedding``: what a step of an embedding costs the network, on emulated hosts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collectives.table import emulated_note
from benchmarks.sparse.command import TABLE_WIDTH, Line, measure
from benchmarks.sparse.tables import TABLES, Table
from benchmarks.sparse.worker import Suite
from benchmarks.testbed import LaunchError, Topology, UnavailableError
from benchmarks.testbed.topology import INTERFACE
from merak._extras import require

from .ways import WAYS, bytes_of_split_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; their defaults are the comparison of the documentation."""
    add = parser.add_argument
    add("--hosts", type=int, nargs="+", default=[4, 8], help="host counts (default 4 8)")
    add("--tables", type=int, nargs="+", default=list(range(len(TABLES))), help="which of the tables, from 0 on")
    add("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY", help="default: all")
    add("--rate", type=float, default=1000.0, help="Mbit/s of every host's link (default 1000)")
    add("--repeats", type=int, default=9, help="repetitions (default 9)")
    add("--realtime", action="store_true", help="ranks go before this machine's other programs while measured")
    add("--timeout", type=float, default=550.0, help="seconds for each host count (default 550)")
    add("--output", type=Path, metavar="FILE", help="write the lines there as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure and show; the exit status."""
    console = require("rich.console", extra="viz").Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    tables = tuple(TABLES[i] for i in options.tables)
    suite = Suite(tables, tuple(options.ways), options.repeats, INTERFACE, options.realtime)
    print(emulated_note(), flush=True)
    lines: list[Line] = []
    try:
        for hosts in options.hosts:
            topology = Topology(hosts, round(options.rate * 1e6))
            measured = measure("benchmarks.embedding.worker", suite, topology, options.timeout)
            lines += measured
            for table in tables:
                console.print(_show(table, hosts, [line for line in measured if Table(**line["table"]) == table]))
            if options.output:
                options.output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"merak bench: {error}", file=sys.stderr)
        return 1
    return 0


def _show(table: Table, hosts: int, lines: list[Line]) -> Any:
    rows = f"{np.mean(lines[0]['rank_rows']):.0f} rows a rank, {lines[0]['union_rows']} in the union"
    shown = require("rich.table", extra="viz").Table(title=f"{hosts} hosts, {table.name}: {rows}")
    for column in ("way", "ms", "fastest", "slowest", "bound ms", "ratio", "MB out, busiest", "formula MB"):
        shown.add_column(column, justify="left" if column == "way" else "right")
    for line in lines:
        times = np.array(line["times"]) * 1e3
        cells = [f"{np.median(times):.1f}", f"{times.min():.1f}", f"{times.max():.1f}"]
        out = f"{max(line['left']) / 1e6:.2f}"
        if line["way"] == "alltoall":
            formula = bytes_of_split_table(line["rank_rows"], table.columns, table.rows / 8)
            bound = formula / line["goodput"] * 1e3
            shown.add_row(
                line["way"], *cells, f"{bound:.1f}", f"{np.median(times) / bound:.3f}", out, f"{formula / 1e6:.2f}"
            )
        else:
            shown.add_row(line["way"], *cells, "", "", out, "")
    return shown
