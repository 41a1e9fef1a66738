"""Runs PyTorch's backend suite and judges merak by it.

    python -m tests.conformance.run                                # the three modes in turn, then the page in docs
    python -m tests.conformance.run --backend merak --world-size 2 # one pass, nothing stored
    python -m tests.conformance.run --backend merak-as-gloo --subset ci --junit conformance.xml

A run of all passes of a mode replaces its stored results and the page; partial runs are only judged. The exit status
is 1 when a test that passes on Gloo fails on merak.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

from tests.conformance import report, results
from tests.conformance.forkserver import Record
from tests.conformance.gate import violations
from tests.conformance.passes import ALL_PASSES, Pass, run_pass
from tests.conformance.results import Results
from tests.conformance.suite import Mode

CI_PASSES = (Pass(4, False), Pass(3, True))
"""The fewest passes that reach every test which Gloo passes."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", type=Mode, choices=list(Mode), help="one mode; all three when left out")
    parser.add_argument("--subset", choices=["ci"], help="ci: only the passes that make test runs")
    parser.add_argument("--world-size", type=int, choices=[2, 3, 4], help="only the passes with so many ranks")
    parser.add_argument("--junit", type=Path, help="write JUnit XML (with --backend)")
    parser.add_argument("--jobs", type=int, default=2, help="tests in flight at a time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a test may take")
    return parser.parse_args()


def _chosen_passes(arguments: argparse.Namespace) -> list[Pass]:
    candidates = CI_PASSES if arguments.subset else ALL_PASSES
    return [p for p in candidates if arguments.world_size in (None, p.world_size)]


def _tell(mode: Mode, which: Pass, records: list[Record]) -> None:
    counts = Counter(record.outcome for record in records)
    print(f"{mode}, pass {which.name}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()), flush=True)
    for record in records:
        if record.outcome == "failed":
            print(f"--- {record.test} (pass {which.name}) failed:\n{record.reason}", flush=True)


def run_mode(mode: Mode, passes: list[Pass], jobs: int, timeout: float) -> dict[str, list[Record]]:
    """Runs all ``passes`` of a mode; returns the records by pass name."""
    records = {}
    for which in passes:
        records[which.name] = run_pass(mode, which, jobs=jobs, timeout=timeout)
        _tell(mode, which, records[which.name])
    return records


def _judge(mode: Mode, fresh: Results) -> int:
    broken = [] if mode is Mode.GLOO else violations(mode, results.load(Mode.GLOO), fresh)
    for line in broken:
        print(f"gate: {line}", file=sys.stderr)
    return len(broken)


def main() -> int:
    """Entry point of ``python -m tests.conformance.run``."""
    arguments = _arguments()
    modes = [arguments.backend] if arguments.backend else list(Mode)
    passes = _chosen_passes(arguments)
    broken = 0
    for mode in modes:
        records = run_mode(mode, passes, arguments.jobs, arguments.timeout)
        fresh = Results(torch.__version__.split("+")[0])
        for name, of_pass in records.items():
            fresh.add(name, of_pass)
        broken += _judge(mode, fresh)
        if passes == list(ALL_PASSES):
            fresh.save(mode)
        if arguments.junit:
            report.write_junit(arguments.junit, mode, records)
    if passes == list(ALL_PASSES):
        stored = {mode: results.load(mode) for mode in Mode if (results.FOLDER / f"{mode}.json").exists()}
        report.PAGE.write_text(report.page(stored))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
