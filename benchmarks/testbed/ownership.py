"""Who owns a namespace: the prefix of its name says it, so that what a killed process left behind can be removed.

A prefix is ``merak-<pid>-<start time>-<serial>``. Process ids are reused, the pair of id and start time (field 22 of
``/proc/<pid>/stat``, in clock ticks since boot) is not. The serial tells clusters of one process apart.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

NAMESPACE_FOLDER = Path("/run/netns")
_PATTERN = re.compile(r"merak-(\d+)-(\d+)-\d+-(?:hub|host\d+)")
_serial = itertools.count()


def new_prefix() -> str:
    """A prefix that no other cluster on this machine has."""
    pid = os.getpid()
    return f"merak-{pid}-{_start_time(pid)}-{next(_serial)}"


def namespaces(prefix: str) -> list[str]:
    """Names of the existing namespaces of one cluster."""
    return [name for name in _existing() if name.startswith(f"{prefix}-")]


def stale_namespaces() -> list[str]:
    """Names of the existing namespaces whose owner no longer runs."""
    return [name for name in _existing() if (owner := _PATTERN.fullmatch(name)) and not _alive(*owner.groups())]


def _existing() -> list[str]:
    return sorted(path.name for path in NAMESPACE_FOLDER.iterdir()) if NAMESPACE_FOLDER.is_dir() else []


def _alive(pid: str, start_time: str) -> bool:
    return _start_time(int(pid)) == int(start_time)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command's name in parentheses, which may itself hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19])
