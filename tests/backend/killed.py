"""Ranks that are killed in the middle of a collective, and what the survivors say.

Ranks are forked from a process that has imported torch and know each other through a store that the victim may host.
The victim repeats an operation on large tensors with the others until a timer of its own kills it with SIGKILL.

Under torchrun's agent, which has the store and ends the survivors too: `torchrun -m tests.backend.killed OPERATION
VICTIM FOLDER`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

import merak
from tests.processes import kill_session

ROOT = Path(__file__).resolve().parents[2]
ELEMENTS = 4 << 20  # 16 MiB of float32: far more than the sockets hold, so that the kill meets an operation under way
KILL_AFTER_SECONDS = 0.3
GROUP_TIMEOUT = datetime.timedelta(minutes=10)  # survivors must not need it

Operation = Callable[[int, int], None]


def _parts(size: int) -> list[torch.Tensor]:
    return [torch.ones(ELEMENTS // size) for _ in range(size)]


def _send_around(rank: int, size: int) -> None:
    incoming = torch.empty(ELEMENTS)
    sent = dist.isend(torch.ones(ELEMENTS), (rank + 1) % size)
    dist.recv(incoming, (rank - 1) % size)
    assert sent is not None
    sent.wait()


def _reshard(rank: int, size: int) -> None:
    half = size // 2
    plan = merak.plan_reshard(
        {"w": ((ELEMENTS,), torch.float32, list(range(half)), ["S(0)"], list(range(half, size)), ["R"])}
    )
    w = torch.ones(ELEMENTS // half if rank < half else ELEMENTS)
    plan.run({"w": w}, {"w": w})


OPERATIONS: dict[str, Operation] = {
    "broadcast": lambda rank, size: dist.broadcast(torch.ones(ELEMENTS), 0),
    "reduce": lambda rank, size: dist.reduce(torch.ones(ELEMENTS), 0),
    "all_reduce": lambda rank, size: dist.all_reduce(torch.ones(ELEMENTS)),
    "all_gather": lambda rank, size: dist.all_gather(_parts(size), torch.ones(ELEMENTS // size)),
    "reduce_scatter": lambda rank, size: dist.reduce_scatter(torch.ones(ELEMENTS // size), _parts(size)),
    "all_to_all": lambda rank, size: dist.all_to_all(_parts(size), _parts(size)),
    "scatter": lambda rank, size: dist.scatter(torch.ones(ELEMENTS // size), _parts(size) if rank == 0 else None, 0),
    "gather": lambda rank, size: dist.gather(torch.ones(ELEMENTS // size), _parts(size) if rank == 0 else None, 0),
    "barrier": lambda rank, size: dist.barrier(),
    "send/recv": _send_around,
    "reshard": _reshard,
}


def _train(rank: int, size: int) -> None:
    """A step of an engine whose stages are on all ranks."""
    from tests.engine.killed_engine import engine_of

    engine, batch = engine_of(size)
    engine.train_step(batch)


SLOW_TO_BEGIN: dict[str, Operation] = {"train_step": _train}
"""Operations that are carried out once before the timer starts."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one survivor met."""

    rank: int
    error: str  # the exception's type
    text: str
    seconds: float  # from the kill to the exception


def _rank_main(operation: str, rank: int, size: int, victim: int, store_host: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore(
        "127.0.0.1",
        port,
        size,
        is_master=rank == store_host,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=60),
    )
    dist.init_process_group("merak", store=store, rank=rank, world_size=size, timeout=GROUP_TIMEOUT)
    _repeat(operation, rank, size, victim, folder)


def _repeat(operation: str, rank: int, size: int, victim: int, folder: str) -> None:
    """Until this rank is killed, or meets that another one was, which it writes down."""
    carry_out = (OPERATIONS | SLOW_TO_BEGIN)[operation]
    if operation in SLOW_TO_BEGIN:
        carry_out(rank, size)
    dist.barrier()
    killed = Path(folder, "killed")
    if rank == victim:
        threading.Timer(KILL_AFTER_SECONDS, _die, [killed]).start()
    try:
        while True:
            carry_out(rank, size)
    except Exception as error:
        seconds = time.time() - float(killed.read_text())
        outcome = Outcome(rank, type(error).__name__, str(error), seconds)
        Path(folder, f"outcome{rank}.json").write_text(json.dumps(dataclasses.asdict(outcome)))
    os._exit(0)


def _die(killed: Path) -> None:
    killed.write_text(str(time.time()))
    os.kill(os.getpid(), signal.SIGKILL)


def _under_torchrun(operation: str, victim: int, folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the agent's, which may come before the outcome is written
    torch.set_num_threads(1)
    dist.init_process_group("merak", timeout=GROUP_TIMEOUT)
    _repeat(operation, dist.get_rank(), dist.get_world_size(), victim, folder)


def outcomes_of_survivors(size: int, victim: int, folder: Path) -> list[Outcome]:
    survivors = [rank for rank in range(size) if rank != victim]
    return [Outcome(**json.loads((folder / f"outcome{rank}.json").read_text())) for rank in survivors]


def kill_one_under_torchrun(operation: str, *, size: int, victim: int, port: int, folder: Path) -> list[Outcome]:
    """As `kill_one`, with torchrun's agent. Raises TimeoutExpired when the job has not ended within 60 s."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "--master-port", str(port)]
    job = [*agent, "-m", "tests.backend.killed", operation, str(victim), str(folder)]
    with subprocess.Popen(job, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            kill_session(process.pid)
    assert process.returncode != 0, "the agent has not noticed"
    assert "SIGKILL" in errors, errors
    return outcomes_of_survivors(size, victim, folder)


def kill_one(operation: str, *, size: int, victim: int, store_host: int, port: int, folder: Path) -> list[Outcome]:
    """Runs `operation` on `size` ranks, kills `victim`, and returns what the others met, by rank.

    Raises AssertionError naming the ranks that met nothing within 30 s.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed"])
    arguments = [(operation, rank, size, victim, store_host, port, str(folder)) for rank in range(size)]
    # The store's host first: the others wait for it.
    processes = {
        rank: context.Process(target=_rank_main, args=arguments[rank])
        for rank in sorted(range(size), key=store_host.__ne__)
    }
    for process in processes.values():
        process.start()
    deadline = time.monotonic() + 30
    for process in processes.values():
        process.join(max(0.0, deadline - time.monotonic()))
    hanging = [rank for rank, process in processes.items() if process.is_alive()]
    for rank in hanging:
        processes[rank].kill()
    assert not hanging, f"ranks {hanging} still wait in {operation} after rank {victim} was killed"
    return outcomes_of_survivors(size, victim, folder)


if __name__ == "__main__":
    _under_torchrun(sys.argv[1], int(sys.argv[2]), sys.argv[3])
