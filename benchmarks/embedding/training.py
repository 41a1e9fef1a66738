"""Whole training steps of four models on emulated hosts, all ways beside each other.

    sudo python -m benchmarks.embedding.training [--hosts 4 8] [--models lstm gnmt transformer bert] [--steps 20]
        [--ways alltoall ...] [--compute-ms 20 40] [--output FILE]

Models are those of `benchmarks/embedding/models`, scaled down, words drawn from a Zipf distribution with exponent 1;
ways are those of `training_ways`; `training_worker` says how steps are measured. One rank a host, one thread a rank,
fp32. The ways have to have the same losses, within 1e-3; otherwise the exit status is 1.

All ways live in the same processes and take turns, which needs the memory of all of them: some 2 GiB a host for the
LSTM. `--apart` measures one way after the other, where that is too much.

The hosts share the cores of this machine: their compute takes longer than on hosts of their own, and is a larger part
of a step, so that less is won than such hosts would win. With `--compute-ms FORWARD BACKWARD` compute is emulated: each
rank waits as long as a device that takes these milliseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collectives.table import emulated_note
from benchmarks.testbed import Cluster, LaunchError, Topology, UnavailableError, json_lines
from benchmarks.testbed.topology import INTERFACE
from merak._extras import require

from .allocator import KEEP_MEMORY
from .models import MODELS
from .training_ways import BASELINES, WAYS
from .training_worker import TURN, Suite

CHECKOUT = Path(__file__).resolve().parents[2]
TABLE_WIDTH = 150
AGREEMENT = 1e-3

Line = dict[str, Any]
"""What the worker prints."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add = made.add_argument
    add("--hosts", type=int, nargs="+", default=[4], help="host counts (default 4)")
    add("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL", help="default: all")
    add("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY", help="default: all")
    add("--steps", type=int, default=20, help=f"steps of each way, a multiple of {TURN - 1} (default 20)")
    add("--compute-ms", type=float, nargs=2, metavar=("FORWARD", "BACKWARD"), help="emulate compute")
    add("--divide-rows", type=int, default=1, metavar="BY", help="smaller tables, for a quick try (default 1)")
    add("--rate", type=float, default=1000.0, help="Mbit/s of every host's link (default 1000)")
    add("--apart", action="store_true", help="one way after the other, each in processes of its own")
    add("--realtime", action="store_true", help="ranks go before this machine's other programs while measured")
    add("--timeout", type=float, default=1200.0, help="seconds for each launch (default 1200)")
    add("--output", type=Path, metavar="FILE", help="write the figures there as JSON, one line a model and way")
    return made


def suite_of(options: argparse.Namespace) -> Suite:
    """What the options say.

    Raises:
        ValueError: it cannot be measured.
    """
    if options.steps < 1 or options.steps % (TURN - 1):
        raise ValueError(f"--steps is {options.steps}; choose a multiple of {TURN - 1}.")
    if options.divide_rows < 1:
        raise ValueError(f"--divide-rows is {options.divide_rows}; it must be 1 or more.")
    compute_ms = tuple(options.compute_ms) if options.compute_ms else None
    sizes = options.steps, options.divide_rows, compute_ms
    return Suite(tuple(options.models), tuple(options.ways), *sizes, INTERFACE, options.realtime)


def measure(suite: Suite, topology: Topology, timeout: float) -> list[Line]:
    """On emulated hosts.

    Raises:
        LaunchError, UnavailableError: as of the test bed.
    """
    with Cluster(topology) as cluster:
        program = ["-m", "benchmarks.embedding.training_worker", suite.to_json()]
        return json_lines(cluster, program, timeout=timeout, env=KEEP_MEMORY, cwd=str(CHECKOUT))


def check_agreement(lines: list[Line]) -> None:
    """That all ways of a model had the same losses, step by step.

    Raises:
        ValueError: they had not.
    """
    expected = np.array(lines[0]["losses"])
    for line in lines[1:]:
        difference = float(np.max(np.abs(np.array(line["losses"]) - expected) / np.abs(expected)))
        if not difference < AGREEMENT:
            raise ValueError(
                f"{line['model']}: {line['way']} and {lines[0]['way']} do not agree: their losses, which should be the "
                f"same, differ by a share of {difference:.1e}."
            )


def table(lines: list[Line]) -> Any:
    """The ways of a model; those in which tables are split are compared with those in which each rank has them."""
    first = lines[0]
    title = f"{first['hosts']} hosts, {first['model']}: {first['parameters'] / 1e6:.1f} M parameters, "
    title += f"{first['share_of_tables']:.1%} of them embeddings"
    if first["emulated_compute_ms"]:
        title += "; EMULATED COMPUTE, {:g} ms forward and {:g} ms backward".format(*first["emulated_compute_ms"])
    shown = require("rich.table", extra="viz").Table(title=title)
    medians = {line["way"]: float(np.median(line["times"])) for line in lines}
    baselines = {way: median for way, median in medians.items() if way in BASELINES}
    columns = ["way", "ms a step", "fastest", "slowest", "words/s", "MB out, busiest", "last loss"]
    columns += ["over best"] if baselines else []
    columns += [f"over {way}" for way in baselines]
    for column in columns:
        shown.add_column(column, justify="left" if column == "way" else "right", no_wrap=column == "way")
    for line in lines:
        shown.add_row(*_cells(line), *_speedups(line["way"], medians, baselines))
    return shown


def _cells(line: Line) -> list[str]:
    times = np.array(line["times"]) * 1e3
    spread = [f"{time:.1f}" for time in (np.median(times), times.min(), times.max())]
    speed = f"{line['words'] / np.median(line['times']):,.0f}"
    return [line["way"], *spread, speed, f"{max(line['left']) / 1e6:.2f}", f"{line['losses'][-1]:.4f}"]


def _speedups(way: str, medians: dict[str, float], baselines: dict[str, float]) -> list[str]:
    if way in baselines or not baselines:
        return [""] * (len(baselines) + bool(baselines))
    return [f"{baseline / medians[way]:.2f}" for baseline in (min(baselines.values()), *baselines.values())]


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    console = require("rich.console", extra="viz").Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    print(emulated_note(), flush=True)
    lines: list[Line] = []
    try:
        suite = suite_of(options)
        for hosts in options.hosts:
            topology = Topology(hosts, round(options.rate * 1e6))
            launches = [replace(suite, ways=(way,)) for way in suite.ways] if options.apart else [suite]
            of_hosts = [line for launch in launches for line in measure(launch, topology, options.timeout)]
            lines += of_hosts
            if options.output:
                options.output.write_text("".join(json.dumps(line) + "\n" for line in lines))
            for model in suite.models:
                of_model = [line for line in of_hosts if line["model"] == model]
                console.print(table(of_model))
                check_agreement(of_model)
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
