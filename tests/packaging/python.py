"""Runs a few lines in a fresh interpreter: what an import does can be seen only once a process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code`; the result holds its exit status and what it printed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output(code: str, **environment: str) -> str:
    """What `code` prints; fails with its standard error when it does not end well."""
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
