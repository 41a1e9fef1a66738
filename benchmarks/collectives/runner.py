"""A suite on the test bed: build the cluster, start one set of processes, turn its lines into records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.testbed import Cluster, Topology, torchrun
from benchmarks.testbed.topology import INTERFACE

from .record import Record, make_records
from .suite import Suite

CHECKOUT = Path(__file__).resolve().parents[2]


def run_suite(
    suite: Suite, topology: Topology, *, ranks_per_host: int, timeout: float, on_records: Callable[[list[Record]], None]
) -> None:
    """Measure a suite on emulated hosts.

    Args:
        suite: what to measure; its interface is replaced by the test bed's.
        topology: the hosts.
        ranks_per_host: ranks on each of them.
        timeout: seconds for everything.
        on_records: called after each measurement with one record a backend.

    Raises:
        UnavailableError, LaunchError: see `benchmarks.testbed`.
    """
    counted = replace(suite, interface=INTERFACE)
    pending: list[dict[str, Any]] = []

    def on_line(host: int, line: str) -> None:
        if host != 0 or not line.startswith("{"):
            return
        pending.append(json.loads(line))
        if len(pending) == len(counted.backends):
            on_records(make_records(pending, topology, ranks_per_host))
            pending.clear()

    with Cluster(topology) as cluster:
        program = ["-m", "benchmarks.collectives.worker", counted.to_json()]
        torchrun(cluster, program, ranks=ranks_per_host, timeout=timeout, cwd=str(CHECKOUT), on_line=on_line)
