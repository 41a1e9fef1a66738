"""Running ``ip`` and ``tc``, and saying in one sentence why a test bed cannot be built here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence


class UnavailableError(RuntimeError):
    """This machine or user cannot build a test bed; the message says what is missing."""


def require_tools() -> None:
    """Raise `UnavailableError` unless the user is root and iproute2 is installed."""
    if os.geteuid() != 0:
        raise UnavailableError("the test bed makes network namespaces, which needs root: run the command with sudo")
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(
            f"the test bed needs {' and '.join(missing)} of iproute2: apt-get install iproute2 (or dnf install iproute)"
        )


def check(command: Sequence[str]) -> str:
    """Run a command and return its output; raise `UnavailableError` with its error text if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UnavailableError(f"'{' '.join(command)}' failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
