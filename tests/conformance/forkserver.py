"""Runs many tests of the suite from one process that has imported torch once.

``python -m tests.conformance.forkserver --mode gloo --world-size 2 --out results.jsonl [--jobs 1] [test ...]``

The server imports the suite, then forks a *supervisor* per test. A supervisor is the leader of a new session, runs one
test through unittest (which forks the ranks) and leaves a JSON record in the test's directory. If it is still alive
past the deadline the server kills every process of its session with SIGKILL: ranks, their data-loader workers and all.
One JSON line per test is appended to ``--out``: ``test, world_size, outcome, seconds, reason``.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path

from tests.conformance import suite
from tests.processes import kill_session

KILL_GRACE_SECONDS = 15.0
"""How long a supervisor may outlive the suite's own time limit, to print the stacks of the ranks."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What became of one test at one world size."""

    test: str
    world_size: int
    outcome: str  # "passed", "failed" or "skipped"
    seconds: float
    reason: str  # why it was skipped, or the end of the failure's text; empty for a pass


@dataclasses.dataclass(frozen=True)
class Running:
    """A test in flight: the supervisor's process id (also its session's id), its directory and its start time."""

    test: str
    pid: int
    folder: Path
    started: float


def run_one(case: type[unittest.TestCase], test: str) -> tuple[str, str]:
    """Runs one test in this process; returns its outcome and reason."""
    result = unittest.TestResult()
    case(test).run(result)
    for _, text in result.errors + result.failures:
        return "failed", text
    for _, text in result.skipped:
        return "skipped", text
    return "passed", ""


def _supervise(case: type[unittest.TestCase], test: str, folder: Path) -> None:
    """Body of the forked supervisor: never returns."""
    os.setsid()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    tempfile.tempdir = str(folder)
    outcome, reason = run_one(case, test)
    (folder / "result.part").write_text(json.dumps([outcome, reason]))
    (folder / "result.part").rename(folder / "result")
    sys.stdout.flush()
    os._exit(0)


def _start(case: type[unittest.TestCase], test: str, root: Path) -> Running:
    folder = root / test
    folder.mkdir()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            _supervise(case, test, folder)
        finally:
            os._exit(1)
    return Running(test, pid, folder, started)


def _finish(running: Running, world_size: int, timed_out: bool) -> Record:
    kill_session(running.pid)
    if timed_out:
        os.waitpid(running.pid, 0)
    seconds = time.monotonic() - running.started
    log = (running.folder / "log").read_text(errors="replace") if (running.folder / "log").exists() else ""
    if (running.folder / "result").exists():
        outcome, reason = json.loads((running.folder / "result").read_text())
    elif timed_out:
        outcome, reason = "failed", f"no result after {seconds:.0f} s; killed"
    else:
        outcome, reason = "failed", "the supervisor died without a result"
    if outcome == "failed":
        reason = f"{log[-8000:]}\n{reason[-8000:]}"
    return Record(running.test, world_size, outcome, round(seconds, 2), reason)


def serve(
    case: type[unittest.TestCase], tests: list[str], world_size: int, jobs: int, timeout: float, out: io.TextIOBase
) -> None:
    """Runs ``tests``, ``jobs`` of them at a time, and writes a line per test to ``out`` as it ends."""
    suite.limit_test_time(timeout)
    waiting, flying = list(reversed(tests)), dict[int, Running]()
    with tempfile.TemporaryDirectory() as root:
        while waiting or flying:
            while waiting and len(flying) < jobs:
                running = _start(case, waiting.pop(), Path(root))
                flying[running.pid] = running
            for running in list(flying.values()):
                ended = os.waitpid(running.pid, os.WNOHANG)[0] != 0
                timed_out = time.monotonic() - running.started > timeout + KILL_GRACE_SECONDS
                if ended or timed_out:
                    del flying[running.pid]
                    record = _finish(running, world_size, timed_out and not ended)
                    out.write(json.dumps(dataclasses.asdict(record)) + "\n")
                    out.flush()
            time.sleep(0.01)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="run tests of torch's backend suite from one warm process")
    parser.add_argument("--mode", type=suite.Mode, required=True, choices=list(suite.Mode))
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--as-mpi", action="store_true", help="skip what MPI would skip, see suite.load")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--jobs", type=int, default=1, help="tests in flight at a time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a test may take")
    parser.add_argument("tests", nargs="*", help="names; all of the suite when left out")
    return parser.parse_args()


def main() -> None:
    """Entry point of ``python -m tests.conformance.forkserver``."""
    arguments = _arguments()
    case = suite.load(arguments.mode, arguments.world_size, arguments.as_mpi)
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"importing the suite started {threads - 1} threads; forking ranks from it is unsafe")
    tests = arguments.tests or suite.test_names(case)
    with arguments.out.open("a") as out:
        serve(case, tests, arguments.world_size, arguments.jobs, arguments.timeout, out)


if __name__ == "__main__":
    main()
