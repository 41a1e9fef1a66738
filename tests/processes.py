"""Ending processes that a test started, with all that they started in turn."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill_session(session: int) -> None:
    """Sends SIGKILL to every process of a session, whatever process groups its members have made."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # A process may end between the listing and the call.
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
