"""Tensor parallelism with and without sub-batches, and DTensor's, on two emulated hosts with emulated compute.

    sudo .venv/bin/python -m benchmarks.sharding.overlap [--rate 200] [--layers 8] [--repeats 7] [--realtime]

The model is layers of norm and two products, divided as Megatron-LM does: an all-reduce a layer in the forward, and one
in the backward. Communication is real, over a wire of the stated rate between two network namespaces. Compute is
emulated: a product takes the seconds of a stated device, its real arithmetic (little) included; the rest is slept. The
speeds of the device are such that communication is a stated share of compute and communication together.

Ideal is what nothing could beat: a rank's computing alone, measured on a model of its parts, and in each layer and
direction what communication takes longer than that. `hidden` is the share of the saving from plain tensor parallelism
to the ideal that sub-batches make. Losses of all ways are compared.
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
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode

import merak
from benchmarks.collectives.priority import before_others
from benchmarks.collectives.table import emulated_note
from benchmarks.pipeline.emulation import wait_until
from benchmarks.pipeline.overhead import take_turns
from benchmarks.sharding.overhead import Model
from benchmarks.testbed import Cluster, LaunchError, Topology, UnavailableError, json_lines

CHECKOUT = Path(__file__).resolve().parents[2]
RANKS, WIDTH, ROWS, POSITIONS = 2, 64, 32, 128
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6)
ALONE, PLAIN, DTENSOR = "computing alone", "merak, plain", "DTensor, Gloo"
WANTED = 0.8


class EmulatedProducts(TorchDispatchMode):
    """Products take the seconds of a device that does so many FLOPs a second."""

    def __init__(self, flops_per_s: float) -> None:
        super().__init__()
        self._flops_per_s = flops_per_s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any operation; behind a product, a wait."""
        begin = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            first, second = (one.to_local() if isinstance(one, DTensor) else one for one in args[-2:])
            seconds = 2 * first.numel() * second.shape[1] / self._flops_per_s
            if isinstance(seconds, float):  # in a capture sizes are symbols, and nothing is computed
                wait_until(begin + seconds)
        return result


def alone(x: torch.Tensor, layers: int) -> Callable[[], float]:
    """A step of one rank's computing, without its messages; its numbers are of no use."""
    model = Model(layers, WIDTH)
    for layer in model.layers:
        layer.up, layer.down = nn.Linear(WIDTH, 4 * WIDTH // RANKS), nn.Linear(4 * WIDTH // RANKS, WIDTH)
    return _step_of(model, x)


def by_dtensor(x: torch.Tensor, layers: int) -> Callable[[], float]:
    """A step of DTensor's."""
    mesh = dist.DeviceMesh.from_group(dist.new_group(backend="gloo"), "cpu")
    model = Model(layers, WIDTH)
    for layer in model.layers:
        parallelize_module(layer, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return _step_of(model, x)


def _step_of(model: nn.Module, x: torch.Tensor) -> Callable[[], float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(x)["loss"]
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def by_merak(x: torch.Tensor, layers: int, sub_batches: int) -> Callable[[], float]:
    """A step of ours."""
    plan = merak.Plan(tp=RANKS, sub_batches=sub_batches)
    engine = merak.parallelize(
        Model(layers, WIDTH), plan, {"x": x}, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3)
    )
    return lambda: engine.train_step({"x": x})


def work(options: argparse.Namespace) -> None:
    """One rank: all ways take turns, for each share. Rank 0 prints a JSON line a share and way."""
    torch.set_num_threads(1)
    dist.init_process_group("merak")
    x = torch.randn(ROWS, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(1))
    ways = {DTENSOR: by_dtensor(x, options.layers), PLAIN: by_merak(x, options.layers, 1)}
    ways |= {f"merak, {parts} sub-batches": by_merak(x, options.layers, parts) for parts in options.sub_batches}
    losses = {name: [step() for _ in range(3)] for name, step in ways.items()}
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses[PLAIN], rtol=1e-4, err_msg=name)
    ways = {ALONE: alone(x, options.layers)} | ways
    one_sum = x.nbytes * 2 * (RANKS - 1) / RANKS / options.goodput
    flops = 2 * ROWS * POSITIONS * WIDTH * 4 * WIDTH * 2 / RANKS  # of a layer's forward, on a rank
    for share in SHARES:
        forward = 2 * one_sum * (1 - share) / share / 3
        mode = EmulatedProducts(flops / forward)
        emulated = {name: _within(mode, step) for name, step in ways.items()}
        with before_others(options.realtime):
            times = take_turns(emulated, options.repeats, dist.barrier)
        longer = options.layers * (max(0.0, one_sum - forward) + max(0.0, one_sum - 2 * forward))
        for name, row in zip(ways, times, strict=True):
            slowest = torch.tensor(row)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            line = {
                "share": share,
                "way": name,
                "longer_s": longer,
                "times": slowest.tolist(),
            }
            if dist.get_rank() == 0:
                print(json.dumps(line), flush=True)
    dist.destroy_process_group()


def _within(mode: EmulatedProducts, step: Callable[[], float]) -> Callable[[], None]:
    def emulated() -> None:
        with mode:
            step()

    return emulated


def report(lines: list[dict[str, Any]]) -> None:
    """A row a share: seconds of each way, and what of the saving is made."""
    ways = list(dict.fromkeys(line["way"] for line in lines))
    seconds = {(line["share"], line["way"]): float(np.median(line["times"])) for line in lines}
    print(f"{'communication':>13} {'ideal':>9} " + " ".join(f"{way:>21}" for way in ways) + "    hidden")
    for share in SHARES:
        ideal = seconds[share, ALONE] + next(line["longer_s"] for line in lines if line["share"] == share)
        row = [seconds[share, way] for way in ways]
        plain, best = seconds[share, PLAIN], min(row[ways.index(PLAIN) + 1 :])
        hidden = (plain - best) / (plain - ideal)
        cells = " ".join(f"{one * 1e3:18.1f} ms" for one in row)
        print(f"{100 * share:11.0f} % {ideal * 1e3:6.1f} ms {cells} {100 * hidden:7.0f} %")
    print(f"wanted: at least {100 * WANTED:.0f} % hidden")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rate", type=float, default=200.0, help="Mbit/s of the wire (default 200)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--sub-batches", type=int, nargs="+", default=[2, 4], help="to compare (default 2 4)")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each way (default 7)")
    parser.add_argument("--realtime", action="store_true", help="ranks go before this machine's other programs")
    parser.add_argument("--goodput", type=float, help=argparse.SUPPRESS)  # of a rank: it is one
    options = parser.parse_args()
    if options.goodput is not None:
        work(options)
        return 0
    print(emulated_note(), "EMULATED COMPUTE: products sleep, on devices that do not exist.", sep="\n", flush=True)
    topology = Topology(RANKS, round(options.rate * 1e6))
    program = ["-m", "benchmarks.sharding.overlap", *sys.argv[1:], "--goodput", str(topology.goodput)]
    try:
        with Cluster(topology) as cluster:
            lines = json_lines(cluster, program, timeout=900, cwd=str(CHECKOUT))
    except (UnavailableError, LaunchError) as error:
        print(error, file=sys.stderr)
        return 1
    report(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
