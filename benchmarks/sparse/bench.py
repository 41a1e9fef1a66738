"""One rank of a benchmark of ways to handle the gradient of a table: all live in the same processes and take turns.

What they are measured by is the same in every environment: this needs torch, and neither merak nor any of the others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from benchmarks.collectives.control import Control
from benchmarks.collectives.priority import before_others
from benchmarks.collectives.statistics import slowest_rank
from benchmarks.collectives.turns import Turn, take_turns

from .tables import Table

TIMEOUT = timedelta(seconds=60)
SETTLE_SECONDS = 0.05  # until the last acknowledgements are counted

Groups = dict[str, dist.ProcessGroup]


class Way(Protocol):
    """One way, for one rank's gradient: prepared once, outside the measured time, and called many times."""

    def reset(self) -> None:
        """Restore what a call has overwritten."""

    def call(self) -> None:
        """Do it once, to completion."""

    def result(self) -> torch.Tensor:
        """The sum of all ranks' gradients as a dense tensor."""


@dataclass(frozen=True)
class Suite:
    """What to measure."""

    tables: tuple[Table, ...]
    ways: tuple[str, ...]
    repetitions: int
    interface: str
    realtime: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Suite:
        fields = json.loads(text)
        tables = tuple(Table(**table) for table in fields.pop("tables"))
        return cls(tables=tables, ways=tuple(fields.pop("ways")), **fields)


class Rank:
    """The groups and sockets of one rank.

    Args:
        interface: by which it reaches other hosts.
        backends: of the groups, named by them.
    """

    def __init__(self, interface: str, backends: Collection[str]) -> None:
        self.interface = interface
        store, self.rank, self.size = next(rendezvous("env://", timeout=TIMEOUT))
        self.control = Control(PrefixStore("bench", store), self.rank, self.size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
        made = {name: dist.new_group(backend=name, timeout=TIMEOUT) for name in backends}
        self.groups = {name: group for name, group in made.items() if isinstance(group, dist.ProcessGroup)}

    def sent_bytes(self) -> int:
        """That have left this host so far."""
        return int(Path(f"/sys/class/net/{self.interface}/statistics/tx_bytes").read_text())

    def close(self) -> None:
        self.control.barrier()
        self.control.close()
        dist.destroy_process_group()


class Bench(Rank):
    """Measures each table in turn.

    Args:
        suite: what to measure.
        ways: by name, how a way is made from this rank's gradient and the groups.
        describe: collective; what else the lines of a table say, from the same.
        backends: of the groups, named by them.
        lossy: the ways whose results are not the sum.
    """

    def __init__(
        self,
        suite: Suite,
        ways: Mapping[str, Callable[[torch.Tensor, Groups], Way]],
        describe: Callable[[torch.Tensor, Groups], dict[str, Any]],
        backends: Collection[str],
        lossy: Collection[str] = (),
    ) -> None:
        super().__init__(suite.interface, backends)
        self.suite, self.ways, self.describe, self.lossy = suite, ways, describe, lossy
        self.first_of_host = int(os.environ.get("LOCAL_RANK", "0")) == 0

    def run(self) -> None:
        for table in self.suite.tables:
            gradient = table.gradient(self.rank)
            about = {"table": asdict(table), "ranks": self.size} | self.describe(gradient, self.groups)
            expected = gradient.to_dense()
            dist.all_reduce(expected)
            ways = {name: self.ways[name](gradient, self.groups) for name in self.suite.ways}
            left = {name: self.first_call(name, way, expected) for name, way in ways.items()}
            with before_others(self.suite.realtime):
                turns = [Turn(way.reset, way.call) for way in ways.values()]
                times = take_turns(turns, self.suite.repetitions, self.control)
            for name, row in zip(ways, times, strict=True):
                self.print_record(about | {"way": name}, row, *left[name])

    def first_call(self, name: str, way: Way, expected: torch.Tensor) -> tuple[list[int] | None, float]:
        """Call once unmeasured, check the result, and return (on rank 0) the bytes that left each host meanwhile; and
        the norm of the result's error, in terms of the sum's."""
        way.reset()
        self.control.barrier()
        before = self.sent_bytes()
        self.control.barrier()
        way.call()
        self.control.barrier()
        time.sleep(SETTLE_SECONDS)
        sent = self.sent_bytes() - before
        error = float((way.result() - expected).norm() / expected.norm())
        rows = self.control.gather(np.array([sent, self.first_of_host, error], np.float64))
        if rows is None:
            return None, error
        if name not in self.lossy and rows[:, 2].any():
            raise RuntimeError(f"{name} gave a wrong sum on ranks {np.flatnonzero(rows[:, 2]).tolist()}")
        return [int(sent) for sent, first, _ in rows if first], error

    def print_record(self, about: dict[str, Any], times: np.ndarray, left: list[int] | None, error: float) -> None:
        by_rank = self.control.gather(np.ascontiguousarray(times))
        if by_rank is None:
            return
        seconds = [round(second, 6) for second in slowest_rank(by_rank).tolist()]
        record = about | {"times": seconds, "left": left, "error": error}
        # One write: torchrun's own messages go to the same pipe.
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()
