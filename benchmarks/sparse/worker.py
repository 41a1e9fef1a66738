"""One rank of the benchmark; runs under torchrun, on the test bed.

    torchrun --nnodes ... -m benchmarks.sparse.worker SUITE_JSON

All ways live in the same processes and take turns, as in `benchmarks.collectives.worker`. Rank 0 prints one JSON line a
table and way.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

import merak.sparse
from benchmarks.collectives.control import Control
from benchmarks.collectives.priority import before_others
from benchmarks.collectives.statistics import slowest_rank
from benchmarks.collectives.turns import Turn, take_turns

from .tables import Table
from .ways import LOSSY, WAYS, Way

TIMEOUT = timedelta(seconds=60)
SETTLE_SECONDS = 0.05  # until the last acknowledgements are counted


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
    """The groups and sockets of one rank. `interface`: by which it reaches other hosts."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        store, self.rank, self.size = next(rendezvous("env://", timeout=TIMEOUT))
        self.control = Control(PrefixStore("bench", store), self.rank, self.size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
        made = {name: dist.new_group(backend=name, timeout=TIMEOUT) for name in ("merak", "gloo")}
        self.groups = {name: group for name, group in made.items() if isinstance(group, dist.ProcessGroup)}

    def sent_bytes(self) -> int:
        """That have left this host so far."""
        return int(Path(f"/sys/class/net/{self.interface}/statistics/tx_bytes").read_text())

    def close(self) -> None:
        self.control.barrier()
        self.control.close()
        dist.destroy_process_group()


class Bench(Rank):
    """Measures each table in turn."""

    def __init__(self, suite: Suite, ways: Mapping[str, Callable[..., Way]] = WAYS) -> None:
        super().__init__(suite.interface)
        self.suite, self.ways = suite, ways
        self.first_of_host = int(os.environ.get("LOCAL_RANK", "0")) == 0

    def run(self) -> None:
        for table in self.suite.tables:
            gradient = table.gradient(self.rank)
            plan = merak.sparse.explain(gradient, group=self.groups["merak"])
            expected = gradient.to_dense()
            dist.all_reduce(expected, group=self.groups["gloo"])
            ways = {name: self.ways[name](gradient, self.groups) for name in self.suite.ways}
            left = {name: self.first_call(name, way, expected) for name, way in ways.items()}
            with before_others(self.suite.realtime):
                turns = [Turn(way.reset, way.call) for way in ways.values()]
                times = take_turns(turns, self.suite.repetitions, self.control)
            for name, row in zip(ways, times, strict=True):
                self.print_record(table, name, row, *left[name], plan)

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
        if name not in LOSSY and rows[:, 2].any():
            raise RuntimeError(f"{name} gave a wrong sum on ranks {np.flatnonzero(rows[:, 2]).tolist()}")
        return [int(sent) for sent, first, _ in rows if first], error

    def print_record(
        self, table: Table, way: str, times: np.ndarray, left: list[int] | None, error: float, plan: merak.sparse.Plan
    ) -> None:
        by_rank = self.control.gather(np.ascontiguousarray(times))
        if by_rank is None:
            return
        record = {
            "table": asdict(table),
            "way": way,
            "ranks": self.size,
            "times": [round(second, 6) for second in slowest_rank(by_rank).tolist()],
            "left": left,
            "error": error,
            "union_rows": plan.union_rows,
            "rank_rows": plan.rank_rows,
            "chosen": plan.method,
            "prices": plan.prices,
        }
        # One write: torchrun's own messages go to the same pipe.
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench(Suite.from_json(sys.argv[1]))
    bench.run()
    bench.close()


if __name__ == "__main__":
    main()
