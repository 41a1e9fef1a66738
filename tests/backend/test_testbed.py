"""The test bed: what it makes, that programs run on it, and that it is gone afterwards whatever happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.testbed import (
    Cluster,
    LaunchError,
    Topology,
    UnavailableError,
    measure_goodput,
    ownership,
    remove_stale,
    torchrun,
    unavailable,
)

ROOT = Path(__file__).resolve().parents[2]
REASON = unavailable()
needs_testbed = pytest.mark.skipif(REASON is not None, reason=str(REASON))

# Holds a cluster until a signal ends it; prints the prefix of the cluster's names first.
HOLDER = """
import time
from benchmarks.testbed import Cluster, Topology
with Cluster(Topology(hosts=1)) as cluster:
    cluster.popen(0, ["sleep", "1000"])
    print(cluster.prefix, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def pair() -> Iterator[Cluster]:
    with Cluster(Topology(hosts=2)) as cluster:
        yield cluster
    assert ownership.namespaces(cluster.prefix) == []


@pytest.fixture
def holder() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds a cluster, and the prefix of its names."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        assert len(ownership.namespaces(prefix)) == 2
        yield process, prefix
        process.kill()


def test_goodput_of_a_gigabit_is_known() -> None:
    assert Topology().goodput == pytest.approx(119.55e6, rel=1e-4)


def test_every_command_stays_within_the_clusters_own_namespaces() -> None:
    topology = Topology(hosts=3)
    names = set(topology.namespaces("mine"))
    assert len(names) == 4
    for command in topology.commands("mine"):
        assert names & set(command), command


def test_both_ends_of_every_link_are_shaped() -> None:
    shaping = [command for command in Topology(hosts=3, rate=10**8).commands("mine") if command[0] == "tc"]
    assert len(shaping) == 6
    assert all("100000000bit" in command for command in shaping)


@pytest.mark.parametrize("hosts", [0, 251])
def test_impossible_topologies_are_refused(hosts: int) -> None:
    with pytest.raises(ValueError, match="1 to 250 hosts"):
        Topology(hosts=hosts)


def test_users_other_than_root_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="sudo"), Cluster(Topology(hosts=1)):
        pass


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install iproute2" in str(unavailable())


@needs_testbed
def test_one_stream_reaches_the_computed_goodput(pair: Cluster) -> None:
    # A busy machine makes it slower, nothing makes it faster, but for the bucket's first burst.
    assert 0.5 < measure_goodput(pair, seconds=1.0) / pair.topology.goodput < 1.02


@needs_testbed
def test_bytes_that_leave_a_host_are_counted(pair: Cluster) -> None:
    before = pair.sent_bytes(0), pair.sent_bytes(1)
    payload = measure_goodput(pair, seconds=0.2) * 0.2
    assert pair.sent_bytes(0) - before[0] > 0.8 * payload
    assert pair.sent_bytes(1) - before[1] < 0.1 * payload


@needs_testbed
def test_two_clusters_at_once_do_not_meet(pair: Cluster) -> None:
    with Cluster(Topology(hosts=2)) as other:
        assert other.topology.address(0) == pair.topology.address(0)
        busy, idle = other.sent_bytes(0), pair.sent_bytes(0)
        measure_goodput(other, seconds=0.2)
        assert other.sent_bytes(0) > busy
        assert pair.sent_bytes(0) == idle


@needs_testbed
def test_a_cluster_is_removed_after_an_exception() -> None:
    cluster = Cluster(Topology(hosts=1))
    sleepers: list[subprocess.Popen[str]] = []

    def fail_inside() -> None:
        with cluster:
            sleepers.append(cluster.popen(0, ["sleep", "1000"]))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert ownership.namespaces(cluster.prefix) == []
    assert sleepers[0].wait() == -signal.SIGTERM


@needs_testbed
def test_a_failure_half_way_leaves_nothing() -> None:
    cluster = Cluster(Topology(hosts=1, congestion="no-such-algorithm"))
    with pytest.raises(UnavailableError, match="no-such-algorithm"), cluster:
        pass
    assert ownership.namespaces(cluster.prefix) == []


@needs_testbed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_the_cluster(number: signal.Signals, holder: tuple[subprocess.Popen[str], str]) -> None:
    process, prefix = holder
    process.send_signal(number)
    process.wait(timeout=20)
    assert ownership.namespaces(prefix) == []


@needs_testbed
def test_a_killed_owners_cluster_is_removed_by_the_next(holder: tuple[subprocess.Popen[str], str]) -> None:
    process, prefix = holder
    remove_stale()
    assert len(ownership.namespaces(prefix)) == 2, "a living owner's cluster is not stale"
    process.kill()
    process.wait()
    remove_stale()
    assert ownership.namespaces(prefix) == []


@needs_testbed
def test_a_failing_program_is_reported_with_its_last_lines(pair: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('the disk is full')")
    with pytest.raises(LaunchError, match="the disk is full"):
        torchrun(pair, [str(script)], timeout=120)


@needs_testbed
def test_a_program_past_its_deadline_is_ended(pair: Cluster) -> None:
    start = time.monotonic()
    with pytest.raises(LaunchError, match="deadline of 1 s"):
        torchrun(pair, ["--no-python", "sleep", "1000"], timeout=1)
    assert time.monotonic() - start < 20
