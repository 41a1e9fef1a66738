"""The command line of ``merak bench sparse``: sparse all-reduces beside each other on emulated hosts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collectives.table import emulated_note
from benchmarks.testbed import Cluster, LaunchError, Topology, UnavailableError, json_lines
from benchmarks.testbed.topology import INTERFACE
from merak._extras import require

from .bench import Suite
from .tables import TABLES, Table
from .ways import WAYS

CHECKOUT = Path(__file__).resolve().parents[2]
TABLE_WIDTH = 140

Line = dict[str, Any]
"""What the worker prints, and the cluster's goodput in bytes per second."""


@dataclass(frozen=True)
class Program:
    """A module to run on every host, the ways that it measures, the Python whose environment has them, and what else
    its environment variables say."""

    worker: str
    ways: tuple[str, ...]
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; their defaults are the comparison of the documentation."""
    add_common_arguments(parser, WAYS)
    add = parser.add_argument
    add("--densities", type=float, nargs="+", help="instead: tables of which ranks have that share of the rows")
    add("--shuffled", action="store_true", help="the frequent rows spread over the table, not first")


def add_common_arguments(parser: argparse.ArgumentParser, ways: Iterable[str]) -> None:
    """What all benchmarks of tables take."""
    add = parser.add_argument
    add("--hosts", type=int, nargs="+", default=[4, 8], help="host counts (default 4 8)")
    add("--tables", type=int, nargs="+", default=list(range(len(TABLES))), help="which of the tables, from 0 on")
    add("--ways", nargs="+", default=list(ways), choices=list(ways), metavar="WAY", help="default: all")
    add("--rate", type=float, default=1000.0, help="Mbit/s of every host's link (default 1000)")
    add("--repeats", type=int, default=9, help="repetitions (default 9)")
    add("--realtime", action="store_true", help="ranks go before this machine's other programs while measured")
    add("--timeout", type=float, default=550.0, help="seconds for each host count (default 550)")
    add("--output", type=Path, metavar="FILE", help="write the lines there as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure and show; the exit status."""
    tables = tuple(Table(t.rows, t.columns, t.tokens, options.shuffled) for t in (TABLES[i] for i in options.tables))
    if options.densities:
        tables = tuple(Table(28_881, 512, 0, density=density) for density in options.densities)
    return measure_and_show(options, tables, [Program("benchmarks.sparse.worker", tuple(options.ways))], _show)


def measure_and_show(
    options: argparse.Namespace,
    tables: tuple[Table, ...],
    programs: Sequence[Program],
    show: Callable[[Table, int, list[Line]], Any],
) -> int:
    """Each table on each number of hosts, by one program after the other; the exit status."""
    console = require("rich.console", extra="viz").Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    print(emulated_note(), flush=True)
    lines: list[Line] = []
    try:
        for hosts in options.hosts:
            topology = Topology(hosts, round(options.rate * 1e6))
            measured = [line for program in programs for line in _measure(program, tables, topology, options)]
            lines += measured
            for table in tables:
                console.print(show(table, hosts, [line for line in measured if Table(**line["table"]) == table]))
            if options.output:
                options.output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"merak bench: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(
    program: Program, tables: tuple[Table, ...], topology: Topology, options: argparse.Namespace
) -> list[Line]:
    suite = Suite(tables, program.ways, options.repeats, INTERFACE, options.realtime)
    with Cluster(topology) as cluster:
        lines = json_lines(
            cluster,
            ["-m", program.worker, suite.to_json()],
            timeout=options.timeout,
            python=program.python,
            env=program.variables,
            cwd=str(CHECKOUT),
        )
    return [line | {"goodput": topology.goodput} for line in lines]


def _show(table: Table, hosts: int, lines: list[Line]) -> Any:
    first = lines[0]
    rows = f"{np.mean(first['rank_rows']):.0f} rows a rank, {first['union_rows']} in the union"
    shown = require("rich.table", extra="viz").Table(
        title=f"{hosts} hosts, {table.name}: {rows}; auto: {first['chosen']}"
    )
    for column in (
        "way",
        "error",
        "ms",
        "fastest",
        "slowest",
        "bound ms",
        "ratio",
        "MB out, busiest",
        "formula MB",
        "out / formula",
    ):
        shown.add_column(column, justify="left" if column == "way" else "right")
    for line in lines:
        shown.add_row(line["way"], *_cells(line))
    return shown


def _cells(line: Line) -> list[str]:
    times = np.array(line["times"]) * 1e3
    error = f"{line['error']:.2f}" if line["error"] else "0"
    cells = [error, f"{np.median(times):.1f}", f"{times.min():.1f}", f"{times.max():.1f}"]
    out = max(line["left"]) / 1e6
    price = line["prices"].get(line["chosen"] if line["way"] == "auto" else line["way"])
    if price is None:
        return [*cells, "", "", f"{out:.2f}", "", ""]
    announced = (line["ranks"] - 1) * line["table"]["rows"] / 8  # the bitmaps
    bound = (price[1] + announced) / line["goodput"] * 1e3
    formula = (price[1] + announced) / 1e6
    return [
        *cells,
        f"{bound:.1f}",
        f"{np.median(times) / bound:.3f}",
        f"{out:.2f}",
        f"{formula:.2f}",
        f"{out / formula:.3f}",
    ]
