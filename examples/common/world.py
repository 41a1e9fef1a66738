"""The ranks of the job: joining them, and the few small exchanges that training needs beside DDP's.

Everything travels as tensors of numbers or bytes; the object collectives of torch.distributed would pickle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but missing from torch's __all__

from .options import UsageError


@dataclass(frozen=True)
class World:
    """This process's place among the ranks. The exchanges are collective: every rank calls them."""

    rank: int
    size: int
    backend: str

    @property
    def title(self) -> str:
        """The ranks and the backend, in words."""
        return f"{self.size} rank{'s'[: self.size != 1]} over {self.backend}"

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which prints and writes the report."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Prints a line, on rank 0 only."""
        if self.leads:
            print(text, flush=True)

    def share(self, count: int, option: str, part: int | None = None, parts: int | None = None) -> slice:
        """The places of this rank among `count`, which `option` has set: equal consecutive shares, by rank.

        Args:
            part, parts: which of how many shares, where ranks share one: those that hold parts of one model do.

        Raises:
            UsageError: the ranks cannot share evenly, so their mean would not be the batch's mean.
        """
        part, parts = (self.rank, self.size) if part is None or parts is None else (part, parts)
        if count % parts:
            below = count - count % parts
            fits = f"{below} or {below + parts}" if below else str(parts)
            who = "ranks" if parts == self.size else "replicas"
            raise UsageError(f"{option} {count} does not divide evenly over {parts} {who}; choose {fits}.")
        share = count // parts
        return slice(part * share, (part + 1) * share)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, element by element, added in double precision."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(x) for x in total]

    def mean(self, value: float) -> float:
        """The mean over all ranks."""
        return self.sum([value])[0] / self.size

    def share_number(self, value: int) -> int:
        """Rank 0's `value`, on every rank."""
        number = torch.tensor([value], dtype=torch.int64)
        dist.broadcast(number, src=0)
        return int(number)

    def share_text(self, text: str) -> str:
        """Rank 0's `text`, on every rank; what the others pass is ignored."""
        data = bytearray(text.encode())
        size = self.share_number(len(data))
        buffer = torch.frombuffer(data, dtype=torch.uint8) if self.leads else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
        return bytes(buffer.tolist()).decode()

    def share_numbers(self, numbers: torch.Tensor) -> torch.Tensor:
        """Rank 0's `numbers`, int64 [any], on every rank; what the others pass is ignored."""
        size = self.share_number(len(numbers))
        shared = numbers if self.leads else torch.empty(size, dtype=torch.int64)
        dist.broadcast(shared, src=0)
        return shared

    def barrier(self) -> None:
        """Waits for all ranks."""
        dist.barrier()

    def bytes_sent(self) -> int | None:
        """The bytes that this rank's backend has sent to other ranks so far, or None where it does not count them."""
        if self.backend != "merak":
            return None
        from merak import backend  # a run over another backend does not need the compiled extension

        return int(backend.statistics()["bytes_sent"])


@contextmanager
def join(backend: str, timeout: timedelta) -> Iterator[World]:
    """Joins the ranks that torchrun started; a process started without torchrun is a world of one.

    The group is destroyed where all ranks leave together. After an error of this rank alone its peers may be waiting
    for it; then the sockets that close when the process ends are what tells them at once.

    Raises:
        UsageError: the backend is unknown to torch.
    """
    if not dist.is_backend_available(backend):
        hint = "install torch-merak into this environment" if backend == "merak" else "see `--help`"
        raise UsageError(f"torch.distributed knows no backend {backend!r}; {hint}.")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        store = TCPStore("127.0.0.1", 0, 1, is_master=True)  # port 0: any free one
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), backend)
    except UsageError:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()
