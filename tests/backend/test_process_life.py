"""What happens around the group: Ctrl-C, forked children, an end without farewell, a store that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.processes import kill_session

# Two ranks, forked off a process that has imported torch once for both, each with an end of its own like any program's.
PREAMBLE = """
import datetime, os, signal, sys, time
import torch, torch.distributed as dist
ranks = []
for rank in range(2):
    ranks.append(os.fork())
    if ranks[-1] == 0:
        break
else:
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in ranks))
def say(*words):
    os.write(1, (" ".join(map(str, [rank, *words])) + chr(10)).encode())
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False)
dist.init_process_group("merak", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60))
ones = torch.ones(3)
dist.all_reduce(ones)
assert ones.tolist() == [2.0] * 3
"""
DEADLINE_SECONDS = 150  # most of it for importing torch on a busy machine


@pytest.fixture
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


class Ranks:
    """The two ranks while they run."""

    def __init__(self, store: dist.TCPStore, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), str(store.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )

    def line(self) -> str:
        """The next line that a rank says."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> tuple[list[str], str]:
        """What they say until they end, and their errors; both must end well."""
        try:
            output, errors = self._process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            kill_session(self._process.pid)
        assert self._process.returncode == 0, output + errors
        return output.splitlines(), errors


def test_ctrl_c_ends_a_wait(store: dist.TCPStore) -> None:
    code = """
        if rank == 1:
            say(os.getpid())
            try:
                dist.recv(torch.ones(1), 0)
            except KeyboardInterrupt:
                say("interrupted")
        else:
            store.wait(["over"], datetime.timedelta(seconds=60))
        store.set("over", "yes")
    """
    ranks = Ranks(store, code)
    process = int(ranks.line().split()[1])
    time.sleep(0.5)
    before = time.monotonic()
    os.kill(process, signal.SIGINT)
    assert ranks.line() == "1 interrupted"
    assert time.monotonic() - before < 5
    ranks.end()


def test_exit_without_destroy_is_quick_and_quiet(store: dist.TCPStore) -> None:
    code = """
        work = dist.all_reduce(torch.ones(1000), async_op=True)
        work.wait()
        say("over")
    """
    ranks = Ranks(store, code)
    assert sorted([ranks.line(), ranks.line()]) == ["0 over", "1 over"]
    before = time.monotonic()
    _, errors = ranks.end()
    assert "merak" not in errors
    assert "Error" not in errors
    assert time.monotonic() - before < 15


def test_a_peer_that_needs_one_that_has_left_is_told(store: dist.TCPStore) -> None:
    code = """
        if rank == 0:
            try:
                dist.all_reduce(torch.ones(3))
            except dist.DistNetworkError as error:
                say(error)
    """
    (text,), _ = Ranks(store, code).end()
    assert "rank 1" in text
    assert "left" in text


def test_a_forked_child_is_inert_and_the_parent_goes_on(store: dist.TCPStore) -> None:
    code = """
        child = os.fork()
        if child == 0:
            try:
                dist.all_reduce(torch.ones(1))
            except dist.DistNetworkError as error:
                say(error)
            dist.destroy_process_group()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        ones = torch.ones(3)
        dist.all_reduce(ones)
        assert ones.tolist() == [2.0] * 3
        dist.destroy_process_group()
    """
    texts, _ = Ranks(store, code).end()
    assert len(texts) == 2
    assert all("forked" in text for text in texts)


def test_forked_data_loader_workers_do_not_disturb(store: dist.TCPStore) -> None:
    code = """
        from torch.utils.data import DataLoader
        loader = DataLoader(list(range(8)), batch_size=2, num_workers=2, multiprocessing_context="fork")
        for batch in loader:
            total = batch.float().sum()
            dist.all_reduce(total)
            say(total.item())
        dist.destroy_process_group()
    """
    texts, _ = Ranks(store, code).end()
    assert sorted(texts) == sorted(f"{rank} {total}" for rank in range(2) for total in (2.0, 10.0, 18.0, 26.0))


def test_a_store_that_dies_harms_only_what_still_needs_it() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    code = """
        groups = [dist.new_group([0, 1]) for _ in range(2)]
        dist.all_reduce(torch.ones(1), group=groups[0])
        say("ready")
        time.sleep(3)
        ones = torch.ones(3)
        dist.all_reduce(ones)  # its connections are made
        assert ones.tolist() == [2.0] * 3
        try:
            dist.all_reduce(torch.ones(1), group=groups[1])
        except dist.DistError as error:
            say(type(error).__name__, error)
    """
    ranks = Ranks(store, code)
    assert sorted([ranks.line(), ranks.line()]) == ["0 ready", "1 ready"]
    del store
    texts, _ = ranks.end()
    assert [text.split()[1].startswith("Dist") for text in texts] == [True, True]


def test_destroying_does_not_wait_for_a_store_that_is_frozen(store: dist.TCPStore) -> None:
    code = """
        dist.destroy_process_group()
        if rank == 1:
            sys.exit(0)
        ports, port = os.pipe()
        host = os.fork()
        if host == 0:
            served = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            os.write(port, str(served.port).encode())
            time.sleep(60)
            os._exit(0)
        frozen = dist.TCPStore("127.0.0.1", int(os.read(ports, 16)), is_master=False)
        dist.init_process_group("merak", store=frozen, rank=0, world_size=2)
        work = dist.irecv(torch.ones(1), 1)
        time.sleep(1.5)  # by now the address of rank 1 is being looked up
        os.kill(host, signal.SIGSTOP)
        time.sleep(0.2)
        before = time.monotonic()
        dist.destroy_process_group()
        say(time.monotonic() - before < 5)
        os.kill(host, signal.SIGKILL)
        os.waitpid(host, 0)
    """
    texts, _ = Ranks(store, code).end()
    assert texts == ["0 True"]
