"""One rank of the benchmark; runs under torchrun, on the test bed or on a real cluster.

    torchrun --nnodes ... -m benchmarks.collectives.worker SUITE_JSON

All backends live in the same processes, and repetition i of one stands beside repetition i of the other, first and
second place taking turns: whatever else the machine does hits both alike. The pairs of short messages are spread over
many rounds, see `suite.Batch`. Before each repetition all ranks meet; a repetition's time is that of the rank that took
longest. Rank 0 prints one JSON line a measurement and backend, with
the times, and with the bytes that left each host during the first, unmeasured call.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from .cases import Case, make_case
from .control import Control
from .priority import before_others
from .statistics import Times, slowest_rank
from .suite import Suite
from .turns import Turn, take_turns

GROUP_TIMEOUT = timedelta(seconds=60)
# Acknowledgements that are still under way when a call returns belong to that call's bytes.
SETTLE_SECONDS = 0.02


class Bench:
    """The groups and sockets of one rank."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        store, self.rank, self.size = next(rendezvous("env://", timeout=GROUP_TIMEOUT))
        self.control = Control(PrefixStore("bench", store), self.rank, self.size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=GROUP_TIMEOUT)
        # A key a position, so that a backend can be measured against itself: that ratio should be 1.
        made = [dist.new_group(backend=name, timeout=GROUP_TIMEOUT) for name in suite.backends]
        self.groups = [group for group in made if isinstance(group, dist.ProcessGroup)]
        self.first_of_host = int(os.environ.get("LOCAL_RANK", "0")) == 0

    def run(self) -> None:
        for batch in self.suite.batches():
            cases = [make_case(name, self.rank, self.size, nbytes) for name, nbytes in batch.measurements]
            left = [[self.first_call(case, index) for index in range(len(self.groups))] for case in cases]
            times = [np.zeros((len(self.groups), 0)) for _ in cases]
            for _ in range(batch.rounds):
                for position, case in enumerate(cases):
                    with before_others(self.suite.realtime):
                        measured = self.measure(case, batch.repetitions)
                    times[position] = np.concatenate([times[position], measured], axis=1)
            for measurement, seconds, leaving in zip(batch.measurements, times, left, strict=True):
                self.print_records(*measurement, seconds, leaving)

    def first_call(self, case: Case, index: int) -> list[int] | None:
        """Call once unmeasured, check the result, and return (on rank 0) the bytes that left each host meanwhile."""
        case.reset()
        self.control.barrier()
        before = self.sent_bytes()
        self.control.barrier()
        case.call(self.groups[index])
        self.control.barrier()
        if self.suite.interface is not None:
            time.sleep(SETTLE_SECONDS)
        row = np.array([self.sent_bytes() - before, self.first_of_host, case.correct()], np.float64)
        rows = self.control.gather(row)
        if rows is None:
            return None
        if not rows[:, 2].all():
            wrong = np.flatnonzero(rows[:, 2] == 0).tolist()
            name = type(case).__name__
            raise RuntimeError(f"{name} over {self.suite.backends[index]} gave a wrong result on ranks {wrong}")
        return [int(sent) for sent, first, _ in rows if first]

    def measure(self, case: Case, repetitions: int) -> Times:
        """Seconds of every repetition on this rank, shape (backends, repetitions)."""
        turns = [Turn(case.reset, functools.partial(case.call, group)) for group in self.groups]
        return take_turns(turns, repetitions, self.control)

    def sent_bytes(self) -> int:
        """Bytes that left this host so far; 0 where nothing is counted."""
        if self.suite.interface is None:
            return 0
        return int(Path(f"/sys/class/net/{self.suite.interface}/statistics/tx_bytes").read_text())

    def print_records(self, name: str, nbytes: int, times: Times, left: list[list[int] | None]) -> None:
        """Gather the times of all ranks; rank 0 prints a line for each backend."""
        for backend, row, leaving in zip(self.suite.backends, times, left, strict=True):
            by_rank = self.control.gather(np.ascontiguousarray(row))
            if by_rank is not None:
                seconds = [round(second, 9) for second in slowest_rank(by_rank).tolist()]
                counted = leaving if self.suite.interface is not None else None
                record = {"name": name, "backend": backend, "bytes": nbytes, "times": seconds, "left": counted}
                # One write: torchrun's own messages go to the same pipe.
                sys.stdout.write(json.dumps(record) + "\n")
                sys.stdout.flush()

    def close(self) -> None:
        self.control.barrier()
        self.control.close()
        dist.destroy_process_group()


def main() -> None:
    torch.set_num_threads(1)
    suite = Suite.from_json(sys.argv[1])
    if "merak" in suite.backends:
        importlib.import_module("merak")  # torch 2.14 finds an installed merak by itself; a checkout may be another one
    bench = Bench(suite)
    bench.run()
    bench.close()


if __name__ == "__main__":
    main()
