"""A cluster that exists as long as a ``with`` block: built from a `Topology`, removed whatever happens inside.

Removal runs after normal exit, after an exception, after Ctrl-C and SIGTERM, and at interpreter exit. Against SIGKILL
nothing helps, so every new cluster first removes those whose owner is gone. Processes are found through the namespace
they run in (``ip netns pids``), not through process groups: torchrun puts every worker into a session of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType

from . import ownership
from .shell import UnavailableError, check, require_tools
from .topology import INTERFACE, Topology, host_name

TERMINATE_SECONDS = 5.0


class Cluster:
    """Hosts made of network namespaces. Use as a context manager, from one thread.

    Args:
        topology: number of hosts and speed of their links.

    Raises:
        UnavailableError: on entering, when this user or machine cannot build it.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.prefix = ownership.new_prefix()
        self._previous_sigterm: signal.Handlers | None = None
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Cluster:
        require_tools()
        remove_stale()
        atexit.register(self.close)
        self._catch_sigterm()
        try:
            for command in self.topology.commands(self.prefix):
                check(command)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process in the cluster and remove it. Calling it again does nothing."""
        with _signals_held():
            remove(ownership.namespaces(self.prefix))
            # Those that had not entered their namespace yet, and so were not found there.
            for process in self._started:
                if process.poll() is None:
                    process.terminate()
        atexit.unregister(self.close)
        self._release_sigterm()

    def popen(
        self, host: int, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> subprocess.Popen[str]:
        """Start a command on a host, output and errors in one pipe. ``/sys`` shows the host's own interfaces."""
        inside = ["ip", "netns", "exec", host_name(self.prefix, host), *command]
        process = subprocess.Popen(
            inside,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,  # Ctrl-C in the terminal reaches the owner only, which then ends the hosts in order
        )
        self._started.append(process)
        return process

    def end_processes(self) -> None:
        """End every process on every host: SIGTERM, and SIGKILL for those that outlive the grace of 5 s."""
        end_processes(self.topology.namespaces(self.prefix))

    def sent_bytes(self, host: int) -> int:
        """Bytes that left a host since it was made: Ethernet frames, an offloaded packet with one set of headers."""
        counter = f"/sys/class/net/{INTERFACE}/statistics/tx_bytes"
        return int(check(["ip", "netns", "exec", host_name(self.prefix, host), "cat", counter]))

    def _catch_sigterm(self) -> None:
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(signal.SIGTERM, _exit_on_sigterm)
            self._previous_sigterm = previous if isinstance(previous, signal.Handlers) else signal.SIG_DFL

    def _release_sigterm(self) -> None:
        if self._previous_sigterm is not None:
            signal.signal(signal.SIGTERM, self._previous_sigterm)
            self._previous_sigterm = None


def unavailable() -> str | None:
    """Why a test bed cannot be built here, or None if it can. Tries with one host; takes some 50 ms."""
    try:
        with Cluster(Topology(hosts=1)):
            return None
    except UnavailableError as reason:
        return str(reason)


def remove_stale() -> list[str]:
    """Remove the clusters of owners that no longer run; return the names of the namespaces removed."""
    stale = ownership.stale_namespaces()
    remove(stale)
    return stale


def remove(namespaces: Sequence[str]) -> None:
    """End the processes in these namespaces and delete the namespaces; links go with them."""
    end_processes(namespaces)
    for name in namespaces:
        # Another process may be removing the same stale namespace.
        with contextlib.suppress(UnavailableError):
            check(["ip", "netns", "delete", name])


def end_processes(namespaces: Sequence[str]) -> None:
    """SIGTERM to every process in the namespaces, then SIGKILL to those left after `TERMINATE_SECONDS`."""
    deadline = time.monotonic() + TERMINATE_SECONDS
    asked: set[int] = set()
    # Processes may still be entering the namespace, or be starting others, when the first look is taken.
    while pids := _pids(namespaces):
        late = time.monotonic() > deadline
        for pid in pids if late else set(pids) - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(pids)
        time.sleep(0.02)


def _pids(namespaces: Sequence[str]) -> list[int]:
    pids = []
    for name in namespaces:
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        pids += [int(pid) for pid in listed.stdout.split() if not _is_zombie(int(pid))]
    return pids


def _is_zombie(pid: int) -> bool:
    # A child that nobody has waited for yet still counts as being in its namespace.
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM from interrupting a removal half way; they are delivered afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
