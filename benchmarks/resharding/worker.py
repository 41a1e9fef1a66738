"""One rank of ``merak bench resharding``; runs under torchrun, on the test bed.

    torchrun --nnodes 5 --nproc-per-node 4 ... -m benchmarks.resharding.worker SUITE_JSON

All ways of a case live in the same processes and take turns. Every result is compared bit by bit. A way that takes
longer than `SLOW` times the bound is measured once. Rank 0 prints one JSON line a case and way.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import merak.resharding
from benchmarks.collectives.priority import before_others
from benchmarks.collectives.statistics import slowest_rank
from benchmarks.collectives.turns import Turn, take_turns
from benchmarks.sparse.bench import Rank

from .cases import Case, all_cases
from .ways import Locals, Way, group_over, make, plan_of, ways_of

SLOW = 3.0
INSIDE = 1e12  # bytes/s inside a host, in the bound: nothing


@dataclass(frozen=True)
class Suite:
    """What to measure. `goodput`: bytes per second of payload of a link."""

    cases: tuple[str, ...]
    ways: tuple[str, ...]
    repetitions: int
    interface: str
    goodput: float
    calibrate: bool
    realtime: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Suite:
        fields = json.loads(text)
        return cls(cases=tuple(fields.pop("cases")), ways=tuple(fields.pop("ways")), **fields)


class Bench(Rank):
    """Measures each case in turn."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite.interface, ())
        self.suite = suite
        world = group_over("merak", tuple(range(self.size)))
        group_over("gloo", tuple(range(self.size)))
        if suite.calibrate:
            merak.resharding.calibrate(world)
        self.first_of_host = self.rank % 4 == 0

    def run(self) -> None:
        cases = all_cases()
        for name in self.suite.cases:
            self.measure(name, cases[name])

    def measure(self, name: str, case: Case) -> None:
        src = {key: part for key, t in case.items() if (part := t.part(t.source, self.rank)) is not None}
        wanted = {key: part for key, t in case.items() if (part := t.part(t.target, self.rank)) is not None}
        dst = {key: torch.zeros_like(part) for key, part in wanted.items()}
        bound = self.bound(case)
        ways = {way: make(way, case, src, dst) for way in ways_of(case) if way in self.suite.ways}
        firsts = {way: self.first_call(way, made, dst, wanted) for way, made in ways.items()}
        slow = torch.tensor([firsts[way][0] > SLOW * bound for way in ways])
        dist.broadcast(slow, 0)
        quick = [way for way, is_slow in zip(ways, slow.tolist(), strict=True) if not is_slow]
        with before_others(self.suite.realtime):
            turns = [Turn(lambda: None, ways[way].call) for way in quick]
            rows = take_turns(turns, self.suite.repetitions, self.control)
        times = dict(zip(quick, rows, strict=True))
        plan = plan_of(case)
        about: dict[str, Any] = {"case": name, "tensors": len(case), "bytes": sum(t.nbytes for t in case.values())}
        about |= {"bound": bound, "model": plan.seconds, "staging": self.staging(plan), "plan": self.chosen(plan)}
        for way in ways:
            own = times.get(way, np.array([firsts[way][1]]))
            self.print_record(about | {"way": way, "left": firsts[way][2]}, own)

    def bound(self, case: Case) -> float:
        """What the wire needs, whoever sends what: bytes over goodput."""
        plan = plan_of(case)
        topology = dataclasses.replace(
            plan.topology,
            hosts=((self.suite.goodput, self.suite.goodput, INSIDE),) * len(plan.topology.hosts),
            latency_s=0.0,
            latency_inside_s=0.0,
            per_message_s=0.0,
        )
        return plan_of(case, topology=topology).lower_bound_s

    def staging(self, plan: merak.resharding.ReshardPlan) -> int:
        """The most that any rank uses."""
        most = torch.tensor([plan.staging_bytes(self.rank)])
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    @staticmethod
    def chosen(plan: merak.resharding.ReshardPlan) -> str:
        ((_, (shape, cut, balanced, in_flight, _), _, _),) = plan.planned.plans()
        return f"{shape}{', cut' if cut else ''}{', balanced' if balanced else ''}, {in_flight} in flight"

    def first_call(self, name: str, way: Way, dst: Locals, wanted: Locals) -> tuple[float, float, list[int] | None]:
        """Call once and check the result: the time of the slowest rank (on rank 0), that of this one, and (on rank 0)
        the bytes that left each host meanwhile."""
        for part in dst.values():
            part.zero_()
        self.control.barrier()
        before = self.sent_bytes()
        self.control.barrier()
        start = time.perf_counter()
        way.call()
        seconds = time.perf_counter() - start
        self.control.barrier()
        time.sleep(0.05)
        sent = self.sent_bytes() - before
        wrong = any(not torch.equal(part, wanted[key]) for key, part in dst.items())
        rows = self.control.gather(np.array([seconds, sent, self.first_of_host, wrong], np.float64))
        if rows is None:
            return 0.0, seconds, None
        if rows[:, 3].any():
            raise RuntimeError(f"{name} gave wrong values on ranks {np.flatnonzero(rows[:, 3]).tolist()}")
        return float(rows[:, 0].max()), seconds, [int(sent) for _, sent, first, _ in rows if first]

    def print_record(self, record: dict[str, Any], times: np.ndarray) -> None:
        by_rank = self.control.gather(np.ascontiguousarray(times))
        if by_rank is None:
            return
        seconds = [round(second, 6) for second in slowest_rank(by_rank).tolist()]
        # One write: torchrun's own messages go to the same pipe.
        sys.stdout.write(json.dumps(record | {"times": seconds}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    bench = Bench(Suite.from_json(sys.argv[1]))
    bench.run()
    bench.close()
