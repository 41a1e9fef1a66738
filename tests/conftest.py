"""What holds for all tests."""

import os
import signal
from pathlib import Path

import pytest

# torch's store looks up the names behind its clients' addresses. Where the name server does not answer, each look-up
# takes five seconds; this makes it one, in this process and those that it starts.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

# A shell that runs a job in the background makes it ignore Ctrl-C, and so all that it starts: not so here, where tests
# interrupt processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IN_PROCESS = {"graph", "pipeline", "resharding", "sharding", "sparse", "structure"}
"""Folders of tests that run in pytest's own process, but for those that take the pool of ranks."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest-xdist, tests that start ranks run one after another, and those of one process beside them: ranks
    have deadlines to keep, and want the machine's cores."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        starts_ranks = "pool" in getattr(item, "fixturenames", ()) or item.path.name == "test_page.py"
        if folder not in IN_PROCESS or starts_ranks:
            item.add_marker(pytest.mark.xdist_group("ranks"))
