"""One line of the benchmark's output: what was measured, its bound, and the formulas beside both.

The keys ``name, backend, hosts, ranks, bytes, seconds, bound, ratio`` are the stable ones; `Record` says what all mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.testbed import Topology

from .bounds import FORMULAS, bound_seconds, leaving_bytes
from .statistics import ratio_interval
from .suite import PAIRS_A_ROUND, SMALL


@dataclass(frozen=True)
class Record:
    """One collective of one size over one backend.

    Attributes:
        name, backend: the collective and the torch.distributed backend.
        hosts, ranks: numbers of hosts and of ranks on all hosts together.
        bytes: V of `bounds`; 0 for a barrier.
        seconds: median over the repetitions of the slowest rank's time.
        bound: least seconds that the wires allow.
        ratio: seconds / bound; None where the bound is 0.
        repetitions: how many repetitions the median is over.
        formula: bytes in the busiest direction of a link, whose time is the bound.
        left: bytes that left each host in one call, by the interface's counter; None where none was read.
        left_bound: bytes that leave all hosts under the hierarchical algorithm.
        left_formula: its formula.
        peer: the backend that `peer_ratio` compares with; None for that backend itself.
        peer_ratio, peer_low, peer_high: ratio of the medians, and its 95 % bootstrap interval over interleaved pairs.
        rate: bits per second of a link; goodput: bytes of payload per second.
        congestion: TCP congestion control.
    """

    name: str
    backend: str
    hosts: int
    ranks: int
    bytes: int
    seconds: float
    bound: float
    ratio: float | None
    repetitions: int
    formula: str
    left: list[int] | None
    left_bound: float
    left_formula: str
    peer: str | None
    peer_ratio: float | None
    peer_low: float | None
    peer_high: float | None
    rate: int
    goodput: float
    congestion: str

    @property
    def ranks_per_host(self) -> int:
        return self.ranks // self.hosts

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def make_records(lines: Sequence[dict[str, Any]], topology: Topology, ranks_per_host: int) -> list[Record]:
    """Records of one measurement from the workers' lines, one a backend; ratios are against the last backend."""
    return [_make_record(line, lines[-1], topology, ranks_per_host) for line in lines]


def _make_record(line: dict[str, Any], peer: dict[str, Any], topology: Topology, ranks_per_host: int) -> Record:
    name, size, hosts = line["name"], line["bytes"], topology.hosts
    times = np.array(line["times"])
    seconds = float(np.median(times))
    bound = bound_seconds(name, size, hosts, ranks_per_host, topology.goodput)
    against: tuple[float, ...] | tuple[None, ...] = (None, None, None)
    if line is not peer:
        block = PAIRS_A_ROUND if size <= SMALL else 1
        against = ratio_interval(times, np.array(peer["times"]), block)
    return Record(
        name=name,
        backend=line["backend"],
        hosts=hosts,
        ranks=hosts * ranks_per_host,
        bytes=size,
        seconds=seconds,
        bound=bound,
        ratio=seconds / bound if bound else None,
        repetitions=len(times),
        formula=FORMULAS[name].busiest_text,
        left=line.get("left"),
        left_bound=leaving_bytes(name, size, hosts, ranks_per_host),
        left_formula=FORMULAS[name].leaving_text,
        peer=None if line is peer else peer["backend"],
        peer_ratio=against[0],
        peer_low=against[1],
        peer_high=against[2],
        rate=topology.rate,
        goodput=topology.goodput,
        congestion=topology.congestion,
    )


def write_records(records: Iterable[Record], path: Path) -> None:
    """Write records as JSON lines, replacing the file."""
    path.write_text("".join(record.to_json() + "\n" for record in records))


def read_records(path: Path) -> list[Record]:
    """Records of a file that `write_records` wrote."""
    return [Record(**json.loads(line)) for line in path.read_text().splitlines()]
