"""The command line of ``merak bench embedding``: what a step of an embedding costs the network, on emulated hosts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sparse.command import Line, Program, add_common_arguments, measure_and_show
from benchmarks.sparse.tables import TABLES, Table
from merak._extras import require

from .allocator import KEEP_MEMORY
from .torchrec_environment import TORCHREC_WAYS, UnusableError, require_torchrec
from .ways import WAYS, bytes_of_split_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; their defaults are the comparison of the documentation."""
    add_common_arguments(parser, WAYS)
    parser.add_argument(
        "--torchrec", type=Path, metavar="PYTHON", help="also measure TorchRec, in the environment of that Python"
    )


def run(options: argparse.Namespace) -> int:
    """Measure and show; the exit status."""
    tables = tuple(TABLES[i] for i in options.tables)
    programs = [Program("benchmarks.embedding.worker", tuple(options.ways), variables=KEEP_MEMORY)]
    if options.torchrec:
        python = options.torchrec.absolute()  # the hosts run it in another folder
        try:
            require_torchrec(python, tables, options.hosts)
        except UnusableError as error:
            print(f"merak bench: --torchrec: {error}", file=sys.stderr)
            return 1
        programs.append(Program("benchmarks.embedding.torchrec_worker", TORCHREC_WAYS, str(python), KEEP_MEMORY))
    return measure_and_show(options, tables, programs, _show)


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
