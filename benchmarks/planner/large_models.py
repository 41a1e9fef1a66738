"""Plans of large models on 64 and 1,024 devices: how long they take to find, and how they compare with plans by hand.

    python -m benchmarks.planner.large_models [--models NAME ...] [--cluster LINE ...] [--output FILE]
    python -m benchmarks.planner.large_models --headline [--models NAME ...]

Nothing is trained. Steps are predicted, event by event, on clusters that are described by a line (`merak plan --help`).

By hand: tp and pp as published, the rest (replicas, micro-batches, recomputation) the best that there is, 1F1B. A table
has the seconds of the search, capture apart, on one core, and the largest memory of the process.

`--headline` is Merak's own comparison: 64 devices like an RTX 3090, 100 Gbit/s. The other plan is the best of a 3D
system without the shifted schedule, recomputation by stage, and sub-pipelined tensor parallelism: any dp, tp, pp and
number of micro-batches, 1F1B, layers cut evenly, and everything recomputed or nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.planner.zoo import MODELS, Large
from merak.graph.cutting import DoesNotFitError
from merak.planner.command import cluster_of
from merak.planner.explain import plan_text
from merak.planner.found import Found
from merak.planner.plan import Plan
from merak.planner.prediction import Prediction, predict
from merak.planner.prices import Prices, Way
from merak.planner.search import NothingFitsError, Search, can_run
from merak.planner.workload import Workload

CLUSTERS = ("8 x 8 A100-40GB, NVLink3, 100Gbit/s", "128 x 8 A100-40GB, NVLink3, 100Gbit/s")
HEADLINE = "8 x 8 RTX3090, PCIe4, 100Gbit/s"
PUBLISHED = {"GPT-2 1.5B": 1.42, "GPT-2 2.5B": 1.39, "GPT-2 8.3B": 1.43, "GPT-2 20B": 1.61}


def captured(large: Large) -> tuple[Workload, float]:
    """The model's operations, and the seconds that it took to find them."""
    began = time.perf_counter()
    with torch.device("meta"):
        model, batch = large.make()
    return Workload(model, batch, autocast=torch.bfloat16, fused_attention=True), time.perf_counter() - began


def found(prices: Prices, rows: int, pinned: dict[str, Any]) -> Found | None:
    """What a search finds; None if nothing fits."""
    try:
        return Search(prices, rows, None, pinned, lambda text: None).run()
    except NothingFitsError:
        return None


def by_hand(prices: Prices, large: Large, rows: int) -> Found | None:
    """The best of the published ones, or None."""
    plans = []
    for tp, pp in large.by_hand:
        if prices.cluster.devices % (tp * pp) == 0:
            pinned = {"tp": (tp,) * pp, "pp": pp, "schedule": "1f1b", "sub_batches": 1, "sequence_parallel": False}
            plans.append(found(prices, rows, pinned))
    return min((one for one in plans if one), key=lambda one: one.best.step_s, default=None)


def line_of(large: Large, workload: Workload, line: str) -> dict[str, Any]:
    """One row of the table."""
    prices = Prices(workload, cluster_of(line), precision="bf16")
    rows = large.rows * max(1, prices.cluster.devices // 64)
    began = time.perf_counter()
    automatic = found(prices, rows, {})
    seconds = time.perf_counter() - began
    hand = by_hand(Prices(workload, cluster_of(line), precision="bf16"), large, rows)
    return {
        "model": large.name,
        "cluster": line,
        "rows": rows,
        "search_s": seconds,
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "step_s": automatic and automatic.best.step_s,
        "gap": automatic and automatic.gap,
        "plan": automatic and plan_text(automatic.best),
        "hand_s": hand and hand.best.step_s,
        "hand": hand and plan_text(hand.best),
    }


# The headline ---------------------------------------------------------------------------------------------------------


def plain_plans(devices: int, devices_per_host: int, rows: int) -> Iterator[Plan]:
    """All of a 3D system's: tp within hosts."""
    for tp in (one for one in (1, 2, 4, 8, 16) if one <= devices_per_host):
        for pp in range(1, devices // tp + 1):
            dp, rest = divmod(devices, tp * pp)
            if rest or rows % dp:
                continue
            for microbatches in (m for m in range(1, rows // dp + 1) if rows // dp % m == 0):
                for recompute in (0.0, 1.0):
                    plan = Plan(
                        dp=dp, tp=tp, pp=pp, microbatches=microbatches, schedule="1f1b", recompute=recompute,
                        data_parallel="zero1" if dp > 1 else "all-reduce", precision="bf16",
                    )  # fmt: skip
                    if can_run(plan):
                        yield plan


def evenly(prices: Prices, stages: int) -> list[int]:
    """Segments where stages begin, so that each has as much to compute."""
    nodes = prices.timed(Way(), prices.workload.rows, [0]).in_segments(prices.points).nodes
    work = np.cumsum([node.forward_s + node.backward_input_s + node.backward_weight_s for node in nodes])
    wanted = work[-1] * np.arange(1, stages) / stages
    return sorted(set((np.searchsorted(work, wanted) + 1).tolist()))


def best_plain(prices: Prices, rows: int) -> Prediction | None:
    """The fastest plan of a 3D system that fits."""
    best = None
    group = prices.cluster.groups[0]
    for plan in plain_plans(prices.cluster.devices, group.devices_per_host, rows):
        boundaries = evenly(prices, plan.pp)
        if len(boundaries) != plan.pp - 1 or boundaries[-1:] == [len(prices.points) + 1]:
            continue
        try:
            one = predict(plan, prices, rows, boundaries, in_segments=True)
        except DoesNotFitError:
            continue
        if best is None or one.step_s < best.step_s:
            best = one
    return best


def headline(large: Large, workload: Workload) -> dict[str, Any]:
    """The automatic plan beside the best plain one."""
    prices = Prices(workload, cluster_of(HEADLINE), precision="bf16")
    automatic, plain = found(prices, large.rows, {}), best_plain(prices, large.rows)
    return {
        "model": large.name,
        "cluster": HEADLINE,
        "step_s": automatic and automatic.best.step_s,
        "plan": automatic and plan_text(automatic.best),
        "plain_s": plain and plain.step_s,
        "plain": plain and f"{plan_text(plain)}{' recompute all' if plain.plan.recompute else ''}",
        "published": PUBLISHED.get(large.name),
    }


def show(line: dict[str, Any], other: str) -> None:
    """One row, in words."""
    own, theirs = line["step_s"], line[f"{other}_s"]
    ratio = f"{theirs / own:5.2f}x" if own and theirs else "     -"
    search = f"{line['search_s']:6.1f} s {line['memory_gb']:4.1f} GB" if "search_s" in line else ""
    published = f"published {line['published']}x" if line.get("published") else ""
    texts = [f"{one:8.3f} s" if one else "nothing fits" for one in (own, theirs)]
    print(
        f"{line['model']:<13} {line['cluster']:<38} {search} {texts[0]} ({line['plan']}) {ratio} faster than "
        f"{texts[1]} ({line[other]}) {published}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--cluster", nargs="+", default=list(CLUSTERS), metavar="LINE")
    parser.add_argument("--headline", action="store_true", help="beside a plain 3D system, as Merak's paper")
    parser.add_argument("--output", type=Path, metavar="FILE", help="append a JSON line for each row there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.models or (PUBLISHED if options.headline else MODELS):
        workload, seconds = captured(MODELS[name])
        print(f"{name}: captured in {seconds:.1f} s", flush=True)
        lines = (
            [headline(MODELS[name], workload)]
            if options.headline
            else (line_of(MODELS[name], workload, line) for line in options.cluster)
        )
        for line in lines:
            show(line, "plain" if options.headline else "hand")
            if options.output:
                with options.output.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
