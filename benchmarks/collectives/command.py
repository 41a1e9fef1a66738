"""The command line of ``merak bench collectives``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.testbed import LaunchError, Topology, UnavailableError
from merak._extras import require

from .bounds import FORMULAS
from .picture import draw_hosts, draw_sizes
from .record import Record, read_records, write_records
from .runner import run_suite
from .suite import ALL_SIZES, Suite
from .table import cluster_table, emulated_note, format_size, growth_table

TABLE_WIDTH = 140
_UNITS = {"kib": 1 << 10, "mib": 1 << 20, "b": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; their defaults are the full comparison of the documentation."""
    add = parser.add_argument
    add("--hosts", type=int, nargs="+", default=[2, 4, 8], help="host counts (default 2 4 8)")
    add("--ranks-per-host", type=int, default=1, metavar="R", help="ranks on every host (default 1)")
    add(
        "--sizes",
        type=parse_size,
        nargs="+",
        default=ALL_SIZES,
        help="such as 1KiB 64MiB (default: powers of 4 between)",
    )
    add("--collectives", nargs="+", default=list(FORMULAS), choices=list(FORMULAS), metavar="NAME", help="default: all")
    add("--backends", nargs="+", default=["merak", "gloo"], help="side by side; ratios are against the last")
    add("--rate", type=float, default=1000.0, help="Mbit/s of every host's link (default 1000)")
    add("--congestion", default="reno", help="TCP congestion control (default reno)")
    add("--pairs", type=int, default=200, help="repetitions of messages up to 64 KiB (default 200)")
    add("--repeats", type=int, default=5, help="repetitions of messages over 4 MiB, a quarter of those between")
    add("--realtime", action="store_true", help="ranks go before this machine's other programs while measured")
    add("--timeout", type=float, default=900.0, help="seconds for each host count (default 900)")
    add("--output", type=Path, metavar="FILE", help="write the records there as JSON lines")
    add("--pictures", type=Path, metavar="FOLDER", help="draw collectives-*.png there")
    add("--read", type=Path, metavar="FILE", help="measure nothing: show the records of an earlier --output")


def run(options: argparse.Namespace) -> int:
    """Measure (or read) and show; the exit status."""
    # A log file has no width of its own; the tables need this one.
    console = require("rich.console", extra="viz").Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    try:
        records = read_records(options.read) if options.read else _measure(options)
        for hosts, ranks in dict.fromkeys((record.hosts, record.ranks) for record in records):
            chosen = [record for record in records if (record.hosts, record.ranks) == (hosts, ranks)]
            title = f"{hosts} hosts, {ranks} ranks, {chosen[0].rate / 1e9:g} Gbit/s, TCP {chosen[0].congestion}"
            console.print(cluster_table(chosen, title))
        longest = max(record.bytes for record in records)
        if len({record.hosts for record in records}) > 1:
            console.print(growth_table([record for record in records if record.ranks == record.hosts], longest))
        if options.pictures:
            draw_hosts(records, longest, options.pictures / "collectives-hosts.png")
            draw_sizes(records, max(record.hosts for record in records), options.pictures / "collectives-sizes.png")
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"merak bench: {error}", file=sys.stderr)
        return 1
    return 0


def parse_size(text: str) -> int:
    """Bytes from ``64MiB``, ``1KiB`` or ``4096``."""
    lower = text.lower()
    for unit, factor in _UNITS.items():
        if lower.endswith(unit):
            return int(lower.removesuffix(unit)) * factor
    return int(lower)


def _measure(options: argparse.Namespace) -> list[Record]:
    suite = Suite(
        collectives=tuple(options.collectives),
        sizes=tuple(options.sizes),
        backends=tuple(options.backends),
        pairs=options.pairs,
        repeats=options.repeats,
        realtime=options.realtime,
    )
    print(emulated_note(), flush=True)
    records: list[Record] = []

    def on_records(made: list[Record]) -> None:
        records.extend(made)
        _show_progress(made)
        if options.output:  # each time, so that a later failure costs nothing
            write_records(records, options.output)

    for hosts in options.hosts:
        topology = Topology(hosts, round(options.rate * 1e6), congestion=options.congestion)
        ranks, timeout = options.ranks_per_host, options.timeout
        run_suite(suite, topology, ranks_per_host=ranks, timeout=timeout, on_records=on_records)
    return records


def _show_progress(made: list[Record]) -> None:
    first = made[0]
    times = ", ".join(f"{record.backend} {record.seconds * 1e3:.3f} ms" for record in made)
    print(f"{first.hosts} hosts x {first.ranks_per_host}: {first.name} {format_size(first.bytes)}: {times}", flush=True)
