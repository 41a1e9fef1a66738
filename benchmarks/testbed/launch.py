"""Launching a program over the hosts of a cluster: one ``torchrun`` a host, as on real machines.

Every agent gets the address of host 0 as ``--master-addr`` and its own as ``--local-addr`` (the namespaces share one
hostname, so torchrun could not find out by itself). Gloo is told the interface; merak finds it through the rendezvous.
One BLAS thread a rank, because all hosts share the cores of this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cluster import Cluster
from .topology import INTERFACE

MASTER_PORT = 29500
# How long the other hosts may take to notice that one has failed, before they are ended.
FAILURE_GRACE_SECONDS = 10.0
# torchrun's own report of a failure takes some 40 lines; those of the program come before it.
TAIL_LINES = 70


class LaunchError(RuntimeError):
    """A host exited with an error, or the deadline passed; the message ends with the last lines of the hosts."""


@dataclass
class HostOutput:
    """What one host's torchrun printed (standard output and error together), and its exit status."""

    host: int
    lines: list[str] = field(default_factory=list)
    returncode: int | None = None
    listener_error: Exception | None = None


def torchrun_command(
    cluster: Cluster, host: int, ranks: int, program: Sequence[str], python: str = sys.executable
) -> list[str]:
    """The torchrun command line of one host, for `ranks` ranks a host. `program` is ``[script, args...]``."""
    topology = cluster.topology
    options = {
        "--nnodes": topology.hosts,
        "--nproc-per-node": ranks,
        "--node-rank": host,
        "--master-addr": topology.address(0),
        "--master-port": MASTER_PORT,
        "--local-addr": topology.address(host),
        "--monitor-interval": 1,
    }
    flags = [str(word) for option in options.items() for word in option]
    return [python, "-m", "torch.distributed.run", *flags, *program]


def host_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment as a host should see it: without an outer torchrun's variables, one thread a rank."""
    dropped = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    settings = {"GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return env | settings | dict(extra or {})


def torchrun(
    cluster: Cluster,
    program: Sequence[str],
    *,
    ranks: int = 1,
    timeout: float,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    on_line: Callable[[int, str], None] | None = None,
) -> list[HostOutput]:
    """Run a program on every host under torchrun and wait for it.

    Args:
        cluster: a cluster that is entered.
        program: ``[script, args...]`` or ``["-m", module, args...]``, as torchrun takes it.
        ranks: processes a host.
        timeout: seconds for the whole run, start-up included.
        python: whose torchrun, and so in which environment.
        env: environment variables on top of this process's.
        cwd: working directory of the ranks.
        on_line: called with host and line (without its newline) as they arrive, from one thread a host.

    Returns:
        The output of every host, in the order of hosts.

    Raises:
        LaunchError: if a host fails or the deadline passes. No process is left in the cluster then.
        Exception: whatever `on_line` raised, once the hosts have ended.
    """
    environment = host_environment(env)
    outputs = [HostOutput(host) for host in range(cluster.topology.hosts)]
    processes: list[subprocess.Popen[str]] = []
    readers: list[threading.Thread] = []
    try:
        for output in outputs:
            command = torchrun_command(cluster, output.host, ranks, program, python)
            processes.append(cluster.popen(output.host, command, env=environment, cwd=cwd))
            readers.append(_start_reader(processes[-1], output, on_line))
        problem = _await(processes, time.monotonic() + timeout, timeout)
    finally:
        cluster.end_processes()
        for process, reader, output in zip(processes, readers, outputs, strict=False):
            reader.join()
            output.returncode = process.wait()
    for output in outputs:
        if output.listener_error is not None:
            raise output.listener_error
    if problem is not None:
        raise LaunchError(f"{problem}\n{_tails(outputs)}")
    return outputs


def json_lines(
    cluster: Cluster, program: Sequence[str], *, output: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    """What a program tells on the first host: a line of JSON for each result.

    Args:
        output: a file that has each as soon as it is there: what comes later may fail.
        options: as of `torchrun`, which runs it, and says what it raises.
    """
    lines: list[dict[str, Any]] = []

    def on_line(host: int, text: str) -> None:
        if host == 0 and text.startswith("{"):
            lines.append(json.loads(text))
            if output is not None:
                output.write_text("".join(json.dumps(line) + "\n" for line in lines))

    torchrun(cluster, program, on_line=on_line, **options)
    return lines


def _start_reader(
    process: subprocess.Popen[str], output: HostOutput, on_line: Callable[[int, str], None] | None
) -> threading.Thread:
    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                output.lines.append(line.rstrip("\n"))
                tell(output.lines[-1])

    def tell(line: str) -> None:
        if on_line is None or output.listener_error is not None:
            return
        try:
            on_line(output.host, line)
        except Exception as error:  # reading goes on, or the host would block on a full pipe
            output.listener_error = error

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader


def _await(processes: Sequence[subprocess.Popen[str]], deadline: float, timeout: float) -> str | None:
    """Wait for all hosts; return what went wrong, or None."""
    grace_ends: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        failed = [host for host, code in enumerate(codes) if code]
        if None not in codes:
            return f"host {failed[0]} exited with code {codes[failed[0]]}" if failed else None
        now = time.monotonic()
        if failed and grace_ends is None:
            grace_ends = now + FAILURE_GRACE_SECONDS
        if grace_ends is not None and now > grace_ends:
            return f"host {failed[0]} exited with code {codes[failed[0]]}; the others were ended"
        if now > deadline:
            running = [host for host, code in enumerate(codes) if code is None]
            return f"hosts {running} still ran after the deadline of {timeout:g} s and were ended"
        time.sleep(0.05)


def _tails(outputs: Sequence[HostOutput]) -> str:
    return "\n".join(f"[host {output.host}] {line}" for output in outputs for line in output.lines[-TAIL_LINES:])
