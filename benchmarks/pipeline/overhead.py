"""What the executor adds to each computing action: beside the same graphs in a loop written by hand.

    python -m benchmarks.pipeline.overhead [--stages 4] [--microbatches 8] [--repeats 60] [--realtime] [--profile]
    torchrun --nproc-per-node 2 -m benchmarks.pipeline.overhead        # for information: what messages take

A tiny GPT-2 with random weights is captured and cut. In one process all stages are on one rank, so that no message is
involved: the loop (plain_loop.py) and `merak.pipeline.executor` do the same forwards and backwards in the same order,
and take turns. What is printed is the difference of their steps, a computing action. Compute is real here, and small,
so that it does not drown the difference.

Under torchrun stages are dealt to the ranks, which send over this machine's loopback; printed is the time that a rank
spends in actions of each kind.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.collectives.priority import before_others
from merak.graph.stages import Stage

from .tiny_pipeline import Pipeline

WANTED_US = 100


def describe(stages: list[Stage]) -> str:
    """What the stages are like."""
    sizes = [sum(argument.kind == "size" for argument in stage.segments[0].arguments) for stage in stages]
    arguments = [len(stage.segments[0].arguments) for stage in stages]
    values = [len(stage.received) for stage in stages]
    return f"stages: {len(stages)}; of each, arguments {arguments}, of them sizes {sizes}, values received {values}"


def compare(pipeline: Pipeline, repeats: int, realtime: bool) -> None:
    """Prints what the executor adds."""
    plain = pipeline.plain()
    ways: dict[str, Callable[[], None]] = {"plain loop": plain.step, "executor": pipeline.step}
    gradients = []
    for step in ways.values():
        step()
        gradients.append(pipeline.take_gradients())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0)
    with before_others(realtime):
        times = take_turns(ways, repeats, pipeline.take_gradients)
    actions = sum(action.kind in "FB" for action in pipeline.schedule.actions(0))
    print(describe(pipeline.stages))
    for name, row in zip(ways, times, strict=True):
        us = row / actions * 1e6
        print(f"{name:10}  {np.median(us):7.1f} us a computing action (median; fastest {us.min():.1f})")
    added = np.median(times[1] - times[0]) / actions * 1e6
    least = (times[1].min() - times[0].min()) / actions * 1e6
    holds = "yes" if added < WANTED_US else "NO"
    print(f"executor adds {added:.1f} us (median of pairs; fastest {least:.1f}); wanted < {WANTED_US}: {holds}")


def take_turns(ways: dict[str, Callable[[], None]], repeats: int, before: Callable[[], object]) -> np.ndarray:
    """Seconds of every step, shape (ways, repeats); `before` each something is done that does not count."""
    times = np.zeros((len(ways), repeats))
    gc.disable()
    for repetition in range(repeats):
        for row, step in zip(times, ways.values(), strict=True):
            before()
            start = time.perf_counter()
            step()
            row[repetition] = time.perf_counter() - start
    gc.enable()
    return times


def profile(pipeline: Pipeline, repeats: int) -> None:
    """Prints where the executor's own time goes."""
    watch = cProfile.Profile()
    watch.enable()
    for _ in range(repeats):
        pipeline.step()
    watch.disable()
    pstats.Stats(watch).sort_stats("tottime").print_stats(25)


def messages(pipeline: Pipeline, repeats: int) -> None:
    """Prints what a rank spends on actions of each kind."""
    spent: dict[str, list[float]] = defaultdict(list)

    def watched(kind: str, do: Callable[[Any], None]) -> Callable[[Any], None]:
        def timed(action: Any) -> None:
            start = time.perf_counter()
            do(action)
            spent[kind].append(time.perf_counter() - start)

        return timed

    pipeline.step()
    do: dict[str, Callable[[Any], None]] = pipeline.executor._do  # type: ignore[assignment]
    do.update({kind: watched(kind, one) for kind, one in do.items()})
    for _ in range(repeats):
        pipeline.take_gradients()
        pipeline.step()
    rows = [f"{kind} {np.median(times) * 1e6:.0f}" for kind, times in spent.items() if kind != "REDUCE_GRAD"]
    print(f"rank {dist.get_rank()}, us an action, median: {', '.join(rows)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--realtime", action="store_true", help="goes before this machine's other programs")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = options.stages, options.microbatches, options.layers
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("merak")
        with before_others(options.realtime):
            messages(Pipeline(*sizes, dist.group.WORLD), options.repeats)
        dist.destroy_process_group()
        return
    pipeline = Pipeline(*sizes, None)
    compare(pipeline, options.repeats, options.realtime)
    if options.profile:
        profile(pipeline, options.repeats)


if __name__ == "__main__":
    main()
