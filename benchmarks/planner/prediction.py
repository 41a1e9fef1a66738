"""Steps of many plans, predicted and measured.

    sudo .venv/bin/python -m benchmarks.planner.prediction [--rate 1000 100] [--models NAME ...] [--rounds 3]
        [--repeats 5] [--realtime]

Two hosts of one rank each, network namespaces with a wire of the stated rate, a core of this machine each: real models,
real arithmetic, real communication. For each model and wire, steps of plans for two ranks are predicted from profiled
operations (`merak.planner.profiling`) and the wire's rate, nothing else; then they are run. Printed are, of all plans
together, the rank correlation (Spearman's) of predicted and measured seconds and the median error; for each model and
wire, how much slower the plan that is predicted to be the best is than the best that was measured.

A virtual machine's speed drifts by a third within minutes. So operations are profiled anew for each plan, right before
it runs; and all plans have their turn in each round, of which the medians count, of predictions as of measurements.

`gpt2-emulated` is a smaller GPT-2 whose products take as long as a stated device would, several times longer than here:
what is real of them is included, the rest is slept.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import merak
from benchmarks.collectives.priority import before_others
from benchmarks.collectives.table import emulated_note
from benchmarks.pipeline.overhead import take_turns
from benchmarks.sharding.overlap import EmulatedProducts
from benchmarks.testbed import Cluster as TestBed
from benchmarks.testbed import LaunchError, Topology, UnavailableError, json_lines
from merak.backend.texts import gather_json
from merak.planner import Cluster, Link, Plan, Prices, Workload, predict
from merak.planner.device_speed import measure_device
from merak.planner.prediction import Prediction
from merak.planner.profiling import Profiler

CHECKOUT = Path(__file__).resolve().parents[2]
RANKS, ROWS = 2, 16
_LATENCY = "100us"


Made = tuple[nn.Module, dict[str, torch.Tensor]]


def gpt2(hidden: int = 256, length: int = 128) -> Made:
    """A small GPT-2, and a batch."""
    import transformers

    config = transformers.GPT2Config(
        n_layer=4,
        n_embd=hidden,
        n_head=4,
        n_positions=length,
        vocab_size=2048,
        use_cache=False,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    )
    ids = torch.randint(0, 2048, (ROWS, length), generator=torch.Generator().manual_seed(1))
    return transformers.GPT2LMHeadModel(config), {"input_ids": ids, "labels": ids}


def vit() -> Made:
    """A small ViT, and a batch."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768, image_size=64, patch_size=8
    )
    config.problem_type = "single_label_classification"
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(ROWS, 3, 64, 64, generator=generator)
    return transformers.ViTForImageClassification(config), {"pixel_values": pixels, "labels": torch.zeros(ROWS).long()}


MODELS: dict[str, Callable[[], Made]] = {"gpt2": gpt2, "vit": vit, "gpt2-emulated": functools.partial(gpt2, 128, 64)}
FLOPS_PER_S = {"gpt2-emulated": 5e9}
"""Of emulated devices."""


def emulated(name: str) -> contextlib.AbstractContextManager[object]:
    """Within, products take as long as on the model's device."""
    return EmulatedProducts(FLOPS_PER_S[name]) if name in FLOPS_PER_S else contextlib.nullcontext()


def plans() -> Iterator[Plan]:
    """For two ranks, of all kinds."""
    for microbatches in (1, 2, 4):
        yield Plan(dp=2, microbatches=microbatches)
    yield Plan(dp=2, microbatches=1, data_parallel="zero1", recompute=1.0)
    for sequence_parallel in (False, True):
        yield Plan(tp=2, microbatches=2, sequence_parallel=sequence_parallel)
    yield Plan(tp=2, microbatches=2, sub_batches=2)
    for schedule in ("gpipe", "1f1b", "eager", "zero-bubble", "interleaved", "zbv"):
        for microbatches in (2, 8):
            stages = 2 if schedule == "zero-bubble" else None
            yield Plan(pp=2, microbatches=microbatches, schedule=schedule, stages=stages)
    for schedule in ("1f1b", "shifted"):
        yield Plan(pp=2, microbatches=4, schedule=schedule, recompute=1.0)


def batch_of(batch: dict[str, torch.Tensor], plan: Plan, rank: int) -> dict[str, torch.Tensor]:
    """A replica's part."""
    replica = plan.place_of(rank)[1]
    return {name: one.tensor_split(plan.dp)[replica] for name, one in batch.items()}


def predicted(plan: Plan, prices: Prices) -> tuple[Plan, Prediction]:
    """A step of the plan, predicted; and the plan with the stages that were predicted."""
    found = predict(plan, prices, ROWS)
    trunk = prices.workload.prepared.cuttable.trunk
    cuts = tuple(trunk[boundary].name for boundary in found.boundaries)
    return (dataclasses.replace(plan, cuts=cuts) if cuts else plan), found


def measured_s(name: str, plan: Plan, repeats: int, realtime: bool) -> float:
    """The median over steps of the slowest rank."""
    torch.manual_seed(1)  # the same model on all ranks
    model, batch = MODELS[name]()
    mine = batch_of(batch, plan, dist.get_rank())
    engine = merak.parallelize(model, plan, mine, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-4))
    for _ in range(2):
        engine.train_step(mine)
    with before_others(realtime):
        (times,) = take_turns({"step": lambda: _step(engine, mine)}, repeats, dist.barrier)
    slowest = torch.tensor(times)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest.median())


def _step(engine: merak.Engine, batch: dict[str, torch.Tensor]) -> None:
    engine.train_step(batch)


def work(options: argparse.Namespace) -> None:
    """One rank. Rank 0 prints a JSON line a plan."""
    torch.set_num_threads(1)
    dist.init_process_group("merak")
    device = measure_device(torch.device("cpu"), 1, 5)
    cluster = Cluster.uniform(device, RANKS, 1, between=Link.of(f"{options.wire:g}Mbit/s {_LATENCY}"))
    for name in options.models:
        model, batch = MODELS[name]()
        workload = Workload(model, batch)
        dist.barrier()
        for _, plan in itertools.product(range(options.rounds), plans()):
            prices = Prices(workload, cluster, profiler=Profiler())
            line = {"model": name, "wire": options.wire, "plan": dataclasses.asdict(plan)}
            dist.barrier()  # ranks profile at the same time, as they compute in training: they share the memory
            with emulated(name):
                cut, prediction = predicted(plan, prices)
                cuts = gather_json(cut.cuts, torch.device("cpu"))[0]  # ranks have measured a little differently
                cut = dataclasses.replace(cut, cuts=cuts and tuple(cuts))
                line["predicted"] = prediction.step_s
                line["measured"] = measured_s(name, cut, options.repeats, options.realtime)
            if dist.get_rank() == 0:
                print(json.dumps(line), flush=True)
    dist.destroy_process_group()


def of_rounds(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line a plan, with the medians of its rounds."""
    plans: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        plans.setdefault(f"{line['model']} {line['wire']} {plan_in_words(line['plan'])}", []).append(line)
    return [
        rounds[0] | {name: float(np.median([one[name] for one in rounds])) for name in ("predicted", "measured")}
        for rounds in plans.values()
    ]


def report(lines: Sequence[dict[str, Any]]) -> None:
    """A row a plan, and what all say together."""
    lines = of_rounds(lines)
    print(f"{'model':>6} {'wire':>6} {'plan':<52} {'predicted':>10} {'measured':>10} {'error':>7}")
    for line in sorted(lines, key=lambda one: (one["model"], one["wire"], one["measured"])):
        error = line["predicted"] / line["measured"] - 1
        print(
            f"{line['model']:>6} {line['wire']:6g} {plan_in_words(line['plan']):<52} {line['predicted'] * 1e3:7.1f} ms "
            f"{line['measured'] * 1e3:7.1f} ms {error:+7.1%}"
        )
    predicted, measured = (np.array([line[name] for line in lines]) for name in ("predicted", "measured"))
    errors = np.abs(predicted / measured - 1)
    of_all = correlation(predicted, measured)
    print(f"{len(lines)} plans: rank correlation {of_all:.3f}, median error {np.median(errors):.1%}")
    for case in sorted({(line["model"], line["wire"]) for line in lines}):
        of_case = [line for line in lines if (line["model"], line["wire"]) == case]
        correlated = correlation(*(np.array([line[name] for line in of_case]) for name in ("predicted", "measured")))
        chosen = min(of_case, key=lambda line: line["predicted"])["measured"]
        best = min(line["measured"] for line in of_case)
        print(
            f"{case[0]}, {case[1]:g} Mbit/s: the chosen plan takes {chosen / best:.3f} times the best; {correlated:.3f}"
        )


def correlation(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Spearman's."""
    ranks = np.stack([np.argsort(np.argsort(values)).astype(float) for values in (one, other)])
    return float(np.corrcoef(*ranks)[0, 1])


def plan_in_words(plan: dict[str, Any]) -> str:
    """A plan as JSON has it, in a few words."""
    words = [f"dp {plan['dp']} tp {plan['tp']} pp {plan['pp']} m {plan['microbatches']} {plan['schedule']}"]
    words += ["recompute"] * bool(plan["recompute"]) + ["sequence"] * plan["sequence_parallel"]
    words += ["zero1"] * (plan["data_parallel"] == "zero1") + ["sub-batches"] * (plan["sub_batches"] > 1)
    return " ".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rate", type=float, nargs="+", default=[1000.0, 100.0], help="Mbit/s of the wires")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each plan (default 3)")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each turn (default 5)")
    parser.add_argument("--realtime", action="store_true", help="ranks go before this machine's other programs")
    parser.add_argument("--output", type=Path, help="write the lines there, as JSON")
    parser.add_argument("--wire", type=float, help=argparse.SUPPRESS)  # it is a rank
    options = parser.parse_args()
    if options.wire is not None:
        work(options)
        return 0
    print(emulated_note(), flush=True)
    lines: list[dict[str, Any]] = []
    try:
        for rate in options.rate:
            words = ["--wire", str(rate), "--repeats", str(options.repeats), *["--realtime"] * options.realtime]
            words += ["--rounds", str(options.rounds), "--models", *options.models]
            program = ["-m", "benchmarks.planner.prediction", *words]
            with TestBed(Topology(RANKS, round(rate * 1e6))) as bed:
                lines += json_lines(bed, program, ranks=1, timeout=3000, cwd=str(CHECKOUT))
    except (LaunchError, UnavailableError) as error:
        print(f"benchmarks.planner.prediction: {error}", file=sys.stderr)
        return 1
    report(lines)
    if options.output:
        options.output.write_text(json.dumps(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
