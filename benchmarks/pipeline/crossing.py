"""What crosses from host to host between stages that ranks share, and how long a step takes for it.

    sudo .venv/bin/python -m benchmarks.pipeline.crossing [--rate 200] [--repeats 9] [--realtime]

Two hosts of two ranks each, network namespaces with a wire of the stated rate: a pipeline of two stages, each divided
over the ranks of its host. The model is four layers of two products, tiny, so that messages are what a step is about:
its activations, and their gradients, at each of the stated sizes. One way has each rank send all of them to the rank
with its place in the other stage (as a pipeline without tensor parallelism does), the other a half, which the receivers
gather (`merak.pipeline.crossing`). All of it is real, arithmetic and communication; losses are compared.

The bytes are those that left a host in a step, by its interface's counter, beside those of the activations alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import merak
from benchmarks.collectives.priority import before_others
from benchmarks.collectives.table import emulated_note
from benchmarks.pipeline.overhead import take_turns
from benchmarks.sharding.overhead import Model
from benchmarks.testbed import Cluster, LaunchError, Topology, UnavailableError, json_lines
from benchmarks.testbed.topology import INTERFACE
from merak.pipeline import crossing

CHECKOUT = Path(__file__).resolve().parents[2]
HOSTS, RANKS, WIDTH, LAYERS, MICROBATCHES = 2, 2, 64, 4, 4
KIB = (4, 8, 16, 32, 64, 128, 256, 512)
ALL, SHARES = "all of it", "shares"
LEAST = {ALL: 1 << 62, SHARES: 0}
"""Bytes from which on shares are sent."""
SETTLE_SECONDS = 0.05


def step_of(x: torch.Tensor, way: str) -> Callable[[], float]:
    """A step of training with that batch."""
    plan = merak.Plan(tp=RANKS, pp=HOSTS, microbatches=MICROBATCHES, cuts=(f"layers.{LAYERS // 2}",))
    engine = merak.parallelize(
        Model(LAYERS, WIDTH), plan, {"x": x}, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3)
    )

    def step() -> float:
        vars(crossing)["LEAST_BYTES"] = LEAST[way]
        return engine.train_step({"x": x})

    return step


def work(options: argparse.Namespace) -> None:
    """One rank. Rank 0 prints a JSON line a size and way."""
    torch.set_num_threads(1)
    dist.init_process_group("merak")
    for kib in options.kib:
        positions = kib * 1024 // 4 // WIDTH
        x = torch.randn(MICROBATCHES, positions, WIDTH, generator=torch.Generator().manual_seed(1))
        ways: dict[str, Callable[[], Any]] = {way: step_of(x, way) for way in LEAST}
        losses = {name: [step() for _ in range(2)] for name, step in ways.items()}
        np.testing.assert_allclose(losses[SHARES], losses[ALL], rtol=1e-4)
        left = {name: left_in(step) for name, step in ways.items()}
        with before_others(options.realtime):
            times = take_turns(ways, options.repeats, dist.barrier)
        for name, row in zip(ways, times, strict=True):
            slowest = torch.tensor(row)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            line = {"kib": kib, "way": name, "left": left[name], "times": slowest.tolist()}
            if dist.get_rank() == 0:
                print(json.dumps(line), flush=True)
    dist.destroy_process_group()


def left_in(step: Callable[[], float]) -> float:
    """Bytes that left a host in a step, the mean of both."""
    dist.barrier()
    before = sent_bytes()
    dist.barrier()
    step()
    dist.barrier()
    time.sleep(SETTLE_SECONDS)
    sent = torch.tensor(float(sent_bytes() - before), dtype=torch.float64)
    dist.all_reduce(sent)
    return float(sent) / (HOSTS * RANKS)


def sent_bytes() -> int:
    """By this host, since it was made."""
    return int(Path(f"/sys/class/net/{INTERFACE}/statistics/tx_bytes").read_text())


def report(lines: list[dict[str, Any]]) -> None:
    """A row a size."""
    found = {(line["kib"], line["way"]): (line["left"], float(np.median(line["times"]))) for line in lines}
    print(f"{'':>24}  {'bytes that left a host':>24}  {'seconds of a step':>24}")
    print(f"{'a message':>10} {'in a step':>13}  {ALL:>12} {SHARES:>11}  {ALL:>12} {SHARES:>11}")
    for kib in dict.fromkeys(line["kib"] for line in lines):
        (all_bytes, all_s), (bytes_, seconds) = found[kib, ALL], found[kib, SHARES]
        print(
            f"{kib:6} KiB {MICROBATCHES * kib:9} KiB  {all_bytes / 1024:8.0f} KiB {bytes_ / 1024:7.0f} KiB"
            f"  {all_s * 1e3:9.2f} ms {seconds * 1e3:8.2f} ms"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rate", type=float, default=200.0, help="Mbit/s of the wire (default 200)")
    parser.add_argument("--kib", type=int, nargs="+", default=list(KIB), help="sizes of activations")
    parser.add_argument("--repeats", type=int, default=9, help="steps of each way (default 9)")
    parser.add_argument("--realtime", action="store_true", help="ranks go before this machine's other programs")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)  # it is one
    options = parser.parse_args()
    if options.rank:
        work(options)
        return 0
    print(emulated_note(), flush=True)
    topology = Topology(HOSTS, round(options.rate * 1e6))
    program = ["-m", "benchmarks.pipeline.crossing", *sys.argv[1:], "--rank"]
    try:
        with Cluster(topology) as cluster:
            lines = json_lines(cluster, program, ranks=RANKS, timeout=900, cwd=str(CHECKOUT))
    except (UnavailableError, LaunchError) as error:
        print(error, file=sys.stderr)
        return 1
    report(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
