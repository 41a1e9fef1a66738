"""`merak bench --calibrate`: measures the cluster it runs on, under torchrun, and writes it down for plans."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

HOW_TO_LAUNCH = """merak bench --calibrate measures the cluster that torchrun starts it on; run on every host

    torchrun --nnodes HOSTS --nproc-per-node DEVICES --node-rank HOST --master-addr FIRST_HOST --master-port 29500 \\
        -m merak bench --calibrate --output cluster.json

or, on one host, torchrun --nproc-per-node DEVICES -m merak bench --calibrate (docs/launching.md says more)."""

Run = Callable[[argparse.Namespace], int]


def extend_parser(bench: argparse.ArgumentParser) -> None:
    """Adds `--calibrate` and its options to the parser of `merak bench`. No benchmark comes with it."""
    options = bench.add_argument_group("calibration", "without a benchmark, under torchrun")
    add = options.add_argument
    add("--calibrate", action="store_true", help="measure devices and links, and print them")
    add("--output", type=Path, metavar="FILE", help="write them there as JSON, for merak.plan(cluster=...)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="what computes: default cpu")
    add("--rounds", type=int, default=9, metavar="N", help="how often each is measured; the median counts (default 9)")
    bench.set_defaults(run=functools.partial(_run_if_asked, bench.get_default("run")))


def _run_if_asked(otherwise: Run, options: argparse.Namespace) -> int:
    if not options.calibrate:
        return otherwise(options)
    if options.benchmark is not None:
        print("merak bench --calibrate runs no benchmark; leave out either", file=sys.stderr)
        return 2
    return run(options)


def run(options: argparse.Namespace) -> int:
    """Measures, prints and saves; the exit status."""
    if options.rounds < 1:
        print(f"merak bench --calibrate: --rounds is {options.rounds}; expected 1 or more", file=sys.stderr)
        return 2
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        print(HOW_TO_LAUNCH, file=sys.stderr)
        return 2
    import torch
    import torch.distributed as dist

    from merak.planner.calibration import calibrate

    device = torch.device("cpu")
    if options.device == "cuda":
        if not torch.cuda.is_available():
            print("merak bench --calibrate: --device is cuda, and torch finds none here", file=sys.stderr)
            return 1
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    dist.init_process_group("merak")
    try:
        cluster = calibrate(
            device, rounds=options.rounds, progress=lambda text: print(f"measuring: {text}", flush=True)
        )
        if dist.get_rank() == 0:
            print(f"\n{cluster.explain()}", flush=True)
            if options.output:
                cluster.save(options.output)
    except (ValueError, OSError) as error:
        print(f"merak bench --calibrate: {error}", file=sys.stderr)
        return 1
    finally:
        dist.destroy_process_group()
    return 0
