"""Measuring on a machine that other people use too: the ranks' threads run before theirs while they are measured.

Ranks of a collective are idle for most of the time, but must run at once when data arrives. On a machine with more
running programs than cores, each such moment waits for a time slice, and the result is the machine's load, not the
collective. Under the round-robin real-time policy the threads of all backends alike go first. It needs root; start-up,
which is long and busy, is left at the normal policy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def before_others(wanted: bool) -> Iterator[None]:
    """Run every thread of this process before normal programs, inside the block, if `wanted`."""
    if not wanted:
        yield
        return
    _set_policy(os.SCHED_RR, 1)
    try:
        yield
    finally:
        _set_policy(os.SCHED_OTHER, 0)


def _set_policy(policy: int, priority: int) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread that ended meanwhile
            os.sched_setscheduler(int(thread), policy, os.sched_param(priority))
