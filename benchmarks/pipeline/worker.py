"""One rank of ``merak bench pipeline``; runs under torchrun, on the test bed, one rank a host.

    torchrun --nnodes 4 ... -m benchmarks.pipeline.worker SUITE_JSON

All ways of a case live in the same processes and take turns of a step each. A first step of each is not measured: the
gradients that it gives are compared with those expected, and the bytes counted that left the hosts. Rank 0 prints one
JSON line a case and way. A step's time is the slowest rank's, from when all have met; `spans` shows what each rank
computed when in the step with the median time: stage, kind, micro-batch, begin, end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.collectives.priority import before_others
from benchmarks.collectives.turns import Turn, take_turns
from benchmarks.sparse.bench import SETTLE_SECONDS, Rank

from .cases import BACKENDS, CASES, Case, simulated_kind
from .emulation import Span, expected_gradient
from .suite import Suite
from .ways import Way, make

KINDS = "FBIWR"


class Watched:
    """A way, and what its steps were like on this rank: when each began, and the spans of each."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.begins: list[float] = []
        self.spans: list[list[Span]] = []

    def reset(self) -> None:
        self.way.take_gradients()
        self.way.device.begin_step()

    def call(self) -> None:
        self.begins.append(time.perf_counter())
        self.way.step()
        self.spans.append(self.way.device.spans)


class Bench(Rank):
    """Measures each case in turn."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite.interface, BACKENDS)
        self.suite = suite

    def run(self) -> None:
        for name, ways in self.suite.ways.items():
            self.measure(name, CASES[name], ways)

    def measure(self, name: str, case: Case, ways: tuple[str, ...]) -> None:
        suite = self.suite
        nbytes = case.message_bytes(suite.forward_s, suite.goodput)
        watched = {way: Watched(make(way, case, nbytes // 4, suite.forward_s, self.groups)) for way in ways}
        left = {way: self.first_step(way, one.way, case) for way, one in watched.items()}
        with before_others(suite.realtime):
            turns = [Turn(one.reset, one.call) for one in watched.values()]
            times = take_turns(turns, suite.repetitions, self.control)
        about = {"case": name, "microbatches": case.microbatches, "ranks": self.size, "recompute": case.recompute}
        about |= {"forward_s": suite.forward_s, "message": case.message, "message_bytes": nbytes}
        about |= {"goodput": suite.goodput, "realtime": suite.realtime}
        for way, row in zip(ways, times, strict=True):
            record = about | {"way": way, "left": left[way]}
            self.print_record(record | self.simulated(way, case), row, watched[way])

    def simulated(self, way: str, case: Case) -> dict[str, Any]:
        kind, suite = simulated_kind(way), self.suite
        if kind is None:
            return {}
        simulation = case.schedule(kind).simulate(case.costs(kind, suite.forward_s, suite.goodput))
        return {"simulated_s": simulation.seconds, "simulated_bubble": simulation.bubble}

    def first_step(self, name: str, way: Way, case: Case) -> list[int]:
        """Checks its gradients. On rank 0: the bytes that left each host in it."""
        way.device.begin_step()
        self.control.barrier()
        before = self.sent_bytes()
        self.control.barrier()
        way.step()
        self.control.barrier()
        time.sleep(SETTLE_SECONDS)
        sent = self.sent_bytes() - before
        wrong = not np.allclose(way.take_gradients(), expected_gradient(case.microbatches), rtol=1e-3)
        rows = self.control.gather(np.array([sent, wrong], np.float64))
        if rows is None:
            return []
        if rows[:, 1].any():
            raise RuntimeError(f"{name} gave wrong gradients on ranks {np.flatnonzero(rows[:, 1]).tolist()}")
        return [int(sent) for sent, _ in rows]

    def sent_bytes(self) -> int:
        """By all wires of this host."""
        counters = Path("/sys/class/net").glob("*/statistics/tx_bytes")
        return sum(int(counter.read_text()) for counter in counters if counter.parts[-3] != "lo")

    def print_record(self, record: dict[str, Any], times: np.ndarray, watched: Watched) -> None:
        seconds = self.slowest(times)
        shown = int(np.argsort(seconds)[len(seconds) // 2])
        begin = -float(self.slowest(np.array([-watched.begins[shown]]))[0])
        spans = self.spans_of_ranks(watched.spans[shown], begin)
        if self.rank != 0:
            return
        record |= {"times": [round(second, 6) for second in seconds.tolist()], "spans": spans}
        # One write: torchrun's own messages go to the same pipe.
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()

    def slowest(self, times: np.ndarray) -> np.ndarray:
        """The most of all ranks, on every rank."""
        most = torch.from_numpy(np.array(times, np.float64))
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return most.numpy()

    def spans_of_ranks(self, spans: list[Span], begin: float) -> list[list[list[Any]]]:
        """On rank 0: by rank."""
        own = [[s.stage, KINDS.index(s.kind), s.microbatch, s.begin - begin, s.end - begin] for s in spans]
        most = int(self.slowest(np.array([len(own)]))[0])
        padded = np.array(own + [[-1, 0, 0, 0, 0]] * (most - len(own)), np.float64)
        rows = self.control.gather(padded.reshape(-1))
        if rows is None:
            return []
        return [[_readable(span) for span in row.reshape(-1, 5).tolist() if span[0] >= 0] for row in rows]


def _readable(span: list[float]) -> list[Any]:
    stage, kind, microbatch, begin, end = span
    return [int(stage), KINDS[int(kind)], int(microbatch), round(begin, 5), round(end, 5)]


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench(Suite.from_json(sys.argv[1]))
    bench.run()
    bench.close()


if __name__ == "__main__":
    main()
