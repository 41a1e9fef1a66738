"""Measuring on a machine that other people use too: the ranks' threads run before theirs while they are measured.

Ranks of a collective are idle for most of the time, but must run at once when data arrives. On a machine with more
running programs than cores, each such moment waits for a time slice, and the result is the machine's load, not the
collective. Under the round-robin real-time policy the threads of all backends alike go first. It needs root; start-up,
which is long and busy, is left at the normal policy.

Of the ranks' threads the one that computes gives way to those that send and receive, as it does under the normal
policy: who has slept goes first there. Round robin alone would let data wait for a turn of 100 ms.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def before_others(wanted: bool) -> Iterator[None]:
    """Run every thread of this process before normal programs, inside the block, if `wanted`; the calling one after the
    others."""
    if not wanted:
        yield
        return
    _set_policy(os.SCHED_RR, of_caller=1, of_others=2)
    try:
        yield
    finally:
        _set_policy(os.SCHED_OTHER, of_caller=0, of_others=0)


def _set_policy(policy: int, of_caller: int, of_others: int) -> None:
    caller = threading.get_native_id()
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):  # a thread that ended meanwhile
            os.sched_setscheduler(thread, policy, os.sched_param(of_caller if thread == caller else of_others))
