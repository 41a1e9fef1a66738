"""A pool of rank processes that stays alive between tests, so that a test costs milliseconds instead of an import.

    def body(context: Context, scale: float) -> torch.Tensor:     # runs on every rank; a module-level function
        x = torch.full((3,), scale * context.rank)
        dist.all_reduce(x)
        return x

    results = pool.run(body, 2.0, world_size=4, backend="merak")  # results[rank]

The ranks are forked, by Python's fork server, from a process that has imported torch; rank ``r`` of every run is the
same process. Each run makes a default process group of its own on the first ``world_size`` ranks and destroys it. If
a rank raises, or a run misses its deadline, :class:`RankError` shows every rank's traceback (of a hanging rank: its
stack), and all ranks are killed and forked anew, so that one failure cannot spoil the next test.

Not thread-safe: one run at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import faulthandler
import functools
import io
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from tests.processes import kill_session

P = ParamSpec("P")
R = TypeVar("R")

GROUP_TIMEOUT = datetime.timedelta(seconds=30)
"""Timeout of the groups: shorter than the default deadline, so that a stuck collective names itself first."""

PRELOADED = ["torch.distributed.fsdp", "torch.distributed.checkpoint", "torch.distributed.pipelining"]
"""Imported once by the fork server, before any rank: they bring with them all of torch that the tests use."""

AFTER_FAILURE_SECONDS = 3.0
"""How long the other ranks may go on after one has failed; their own errors often tell more."""


class RankError(AssertionError):
    """A run failed on some rank; the text holds each rank's traceback or, if it hung, its stack."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a body knows about its run."""

    rank: int
    world_size: int
    backend: str
    folder: Path  # empty, shared by the ranks of the run and removed after it
    store: dist.Store  # for side agreements between ranks; the group has a store of its own


@dataclasses.dataclass(frozen=True)
class _Order:
    """A run, as sent to a rank."""

    number: int
    world_size: int
    backend: str
    folder: Path
    port: int
    body: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


_previous_group: list[Any] = []
"""Keeps a Gloo group alive until the next run: Gloo aborts the process when a callback drops the last reference."""


@functools.cache
def _connect(port: int) -> dist.TCPStore:
    """The pool's store; once a process, because torch looks up the name behind each new connection, which may take
    seconds where no name server answers."""
    return dist.TCPStore("127.0.0.1", port, is_master=False, timeout=GROUP_TIMEOUT)


def _obey(rank: int, order: _Order) -> Any:
    store = _connect(order.port)
    dist.init_process_group(
        order.backend,
        store=dist.PrefixStore(f"group{order.number}", store),
        rank=rank,
        world_size=order.world_size,
        timeout=GROUP_TIMEOUT,
    )
    _previous_group[:] = [dist.group.WORLD] if order.backend == "gloo" else []
    side = dist.PrefixStore(f"side{order.number}", store)
    context = Context(rank, order.world_size, order.backend, order.folder, side)
    try:
        torch.manual_seed(0)
        return order.body(context, *order.arguments, **order.keywords)
    except BaseException:
        traceback.print_exc()  # into the log, in case the group cannot be destroyed any more
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _rank_main(rank: int, log: Path, orders: connection.Connection) -> None:
    """A rank's life: obey orders until the pool closes the pipe."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    torch.set_num_threads(1)
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        try:
            answer = (True, _obey(rank, order))
        except BaseException:
            answer = (False, traceback.format_exc())
        # Plain pickle copies tensors; the pipe's own would share their memory, which does not outlive this process.
        orders.send_bytes(pickle.dumps(answer))


@dataclasses.dataclass
class _Rank:
    process: Any
    orders: connection.Connection
    log: Path

    def stop(self) -> None:
        if self.process.is_alive():
            kill_session(self.process.pid)
        self.process.join()
        self.orders.close()


class RankPool:
    """Rank processes, forked when first needed and kept; a context manager that ends them."""

    def __init__(self) -> None:
        self._ranks: list[_Rank] = []
        self._runs = 0
        self._folder = tempfile.TemporaryDirectory()
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)
        # Ranks share the cores; and with one thread the fork server has no pool of threads that a fork would lose.
        os.environ.setdefault("OMP_NUM_THREADS", "1")

    def __enter__(self) -> RankPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()
        self._folder.cleanup()

    def run(
        self,
        body: Callable[Concatenate[Context, P], R],
        /,
        *arguments: Any,
        world_size: int = 2,
        backend: str = "merak",
        deadline: float = 60.0,
        **keywords: Any,
    ) -> list[R]:
        """Runs ``body(context, *arguments, **keywords)`` on ``world_size`` ranks and returns its results by rank.

        Raises :class:`RankError` if any rank raises or dies, or if one has not answered within ``deadline`` seconds.
        """
        while len(self._ranks) < world_size:
            self._ranks.append(self._fork(len(self._ranks)))
        self._runs += 1
        folder = Path(self._folder.name) / f"run{self._runs}"
        folder.mkdir()
        order = _Order(self._runs, world_size, backend, folder, self._store.port, body, arguments, keywords)
        crew = self._ranks[:world_size]
        for rank in crew:
            rank.log.write_text("")
            rank.orders.send(order)
        answers = self._collect(crew, deadline)
        if any(answer is None or not answer[0] for answer in answers):
            report = self._report(crew, answers, deadline)
            self._stop_all()
            raise RankError(report)
        return [answer[1] for answer in answers if answer is not None]

    def _fork(self, rank: int) -> _Rank:
        ours, theirs = self._processes.Pipe()
        log = Path(self._folder.name) / f"rank{rank}.log"
        process = self._processes.Process(target=_rank_main, args=(rank, log, theirs), daemon=False)
        process.start()
        theirs.close()
        return _Rank(process, ours, log)

    @staticmethod
    def _collect(crew: Sequence[_Rank], deadline: float) -> list[tuple[bool, Any] | None]:
        """Each rank's answer; None for one that died or was silent until the end."""
        answers: list[tuple[bool, Any] | None] = [None] * len(crew)
        waiting = {rank.orders: index for index, rank in enumerate(crew)}
        end = time.monotonic() + deadline
        while waiting and time.monotonic() < end:
            for ready in connection.wait(list(waiting), timeout=max(0.0, end - time.monotonic())):
                assert isinstance(ready, connection.Connection)
                index = waiting.pop(ready)
                with contextlib.suppress(EOFError, ConnectionResetError):
                    answers[index] = pickle.loads(ready.recv_bytes())  # noqa: S301 (our own child)
                answer = answers[index]
                if answer is None or not answer[0]:
                    end = min(end, time.monotonic() + AFTER_FAILURE_SECONDS)
        return answers

    @staticmethod
    def _report(crew: Sequence[_Rank], answers: Sequence[tuple[bool, Any] | None], deadline: float) -> str:
        report = io.StringIO()
        for index, (rank, answer) in enumerate(zip(crew, answers, strict=True)):
            if answer is not None and answer[0]:
                continue
            if answer is not None:
                state = f"raised:\n{answer[1]}"
            elif _is_alive(rank.process):
                os.kill(rank.process.pid, signal.SIGUSR1)
                time.sleep(0.3)
                state = f"had not answered (deadline {deadline} s); its stack ends its log"
            else:
                rank.process.join()
                state = f"died with exit code {rank.process.exitcode}"
            print(f"rank {index} {state}\n--- log of rank {index}:\n{_tail(rank.log)}", file=report)
        return report.getvalue()

    def _stop_all(self) -> None:
        for rank in self._ranks:
            rank.stop()
        self._ranks.clear()


def _is_alive(process: Any) -> bool:
    process.join(timeout=0.5)  # the pipe of a dying process closes before its exit code is known
    return bool(process.is_alive())


def _tail(log: Path, characters: int = 6000) -> str:
    return log.read_text(errors="replace")[-characters:]
