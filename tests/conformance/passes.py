"""Which passes over the suite are made, and how one is launched.

A *pass* runs the suite once with a fixed world size and a fixed answer to "what would this backend skip?". No single
pass reaches every CPU test: some need two ranks, some exactly four, and the tests of subgroups and of all-to-all only
run where the suite takes the backend for MPI (:func:`tests.conformance.suite.load`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.forkserver import Record
from tests.conformance.suite import Mode

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Pass:
    """One run over the suite."""

    world_size: int
    as_mpi: bool

    @property
    def name(self) -> str:
        """Key in stored results: "4", or "4-mpi" where the suite skips what it would skip on MPI."""
        return f"{self.world_size}-mpi" if self.as_mpi else str(self.world_size)


ALL_PASSES = (Pass(2, False), Pass(3, False), Pass(4, False), Pass(3, True), Pass(4, True))


def run_pass(mode: Mode, which: Pass, tests: Sequence[str] = (), jobs: int = 2, timeout: float = 120.0) -> list[Record]:
    """Runs ``tests`` (all when empty) in a fork server of their own and returns a record of each.

    Raises ``subprocess.CalledProcessError`` when the server itself fails, e.g. because merak is not built.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "records.jsonl"
        command = [sys.executable, "-m", "tests.conformance.forkserver", "--mode", mode]
        command += ["--world-size", str(which.world_size), "--jobs", str(jobs), "--timeout", str(timeout)]
        command += ["--out", str(out)] + ["--as-mpi"] * which.as_mpi + list(tests)
        # One BLAS thread a rank: more only contend on a small machine.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return [Record(**json.loads(line)) for line in out.read_text().splitlines()]
