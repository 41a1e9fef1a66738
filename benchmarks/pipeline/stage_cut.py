"""GPT-2s on 64 devices: equal layers and one share recomputed everywhere, beside cut and recomputation solved together.

    python -m benchmarks.pipeline.stage_cut [--devices 64] [--batch 512] [--micro-batch 4]

Nothing runs: times are those of the model in csrc/graph/pipeline_model.h, plain 1F1B, on stated devices, and those of
the event simulation of room `pipeline`. All ways have the same memory. A line's columns:

    share        of each stage's forward that equal layers have to recompute, the same everywhere, to fit
    uniform      seconds of that step
    by stage     the same layers, each stage recomputing the least that fits (stage-aware recomputation)
    joint        cut and recomputation solved together
    ratio        uniform / joint; simulated: the same from the event simulation
    over all     equal layers with everything recomputed / joint
    bound        uniform / the best cut if memory were unlimited: no cut and no recomputation can win more
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks.pipeline.gpt2_costs import Device, Model, gpt2_costs, layer_boundaries
from merak.graph.cutting import Conditions, Cut, DoesNotFitError, GraphCosts, cut, uniform_recompute
from merak.pipeline.schedule import Schedule
from merak.pipeline.simulation import Costs

MODELS = (
    Model("1.5 B", 48, 1600, 25),
    Model("2.5 B", 54, 1920, 20),
    Model("8.3 B", 72, 3072, 32),
    Model("20 B", 44, 6144, 64),
)
EFFICIENCY = 0.45
"""Of a device's fp16 peak, what matrix products reach."""
DEVICES = (
    Device("RTX 3090", EFFICIENCY * 142e12, 0.8 * 936e9, 0.9 * 24 * 2**30, 1.25e9, 50e-6),
    Device("A100 40 GB", EFFICIENCY * 312e12, 0.8 * 1555e9, 0.9 * 40 * 2**30, 12.5e9, 20e-6),
)
STAGES = (4, 8, 16, 32)
STATE_FACTOR = 8.0
"""fp16 parameters and gradients, fp32 Adam: 16 bytes for each 2 of parameter."""
COLUMNS = ("share", "uniform", "by stage", "joint", "ratio", "simulated", "over all", "bound")


def simulated_s(found: Cut, microbatches: int) -> float:
    """Seconds of a 1F1B step of these stages, by the events."""
    stages = found.stages
    recompute = [stage.recompute_s > 0 for stage in stages]
    schedule = Schedule.make("1f1b", microbatches=microbatches, stages=len(stages), recompute=recompute)
    costs = Costs(
        forward=[stage.forward_s for stage in stages],
        backward=[stage.backward_s for stage in stages],
        recompute=[stage.recompute_s for stage in stages],
        message={(s - 1, s): stages[s].receive_s for s in range(1, len(stages))},
        gradient_message={(s - 1, s): stages[s].return_s for s in range(1, len(stages))},
    )
    return schedule.simulate(costs).seconds


def compare(costs: GraphCosts, model: Model, stages: int, conditions: Conditions) -> list[str]:
    """The columns of one line."""
    boundaries = layer_boundaries(model, stages)
    unlimited = Conditions(**{**conditions, "memory": None})
    least_s = cut(costs, stages, **unlimited).step_s
    try:
        joint = cut(costs, stages, **conditions)
    except DoesNotFitError as error:
        missing = max(error.cut.missing_bytes) / 1e9
        return [f"no cut fits: {missing:.1f} GB are missing"]
    uniform = uniform_recompute(costs, stages, boundaries, **conditions)
    if not uniform.fits:
        return ["", "no fit", "", f"{joint.step_s:.2f}", "", "", "", ""]
    by_stage = cut(costs, stages, boundaries=boundaries, **conditions)
    whole = cut(costs, stages, boundaries=boundaries, recompute="all", **conditions)
    microbatches = conditions["micro_batches"]
    simulated = simulated_s(uniform, microbatches) / simulated_s(joint, microbatches)
    ratio, over_all = uniform.step_s / joint.step_s, whole.step_s / joint.step_s
    bound = uniform.step_s / least_s
    steps = [f"{one.step_s:.2f}" for one in (uniform, by_stage, joint)]
    ratios = [f"{one:.3f}" for one in (ratio, simulated, over_all, bound)]
    return [f"{uniform.uniform_share:.2f}", *steps, *ratios]


def lines(devices: int, batch: int, micro_batch: int) -> Iterator[str]:
    """The table, row by row."""
    yield f"{'device':10} {'model':6} {'p':>3} {'dp':>3} {'m':>4} " + " ".join(f"{name:>9}" for name in COLUMNS)
    for device in DEVICES:
        for model in MODELS:
            costs = gpt2_costs(model, device, micro_batch)
            for stages in STAGES:
                dp = devices // stages
                microbatches = batch // (dp * micro_batch)
                conditions = Conditions(
                    micro_batches=microbatches,
                    state_factor=STATE_FACTOR,
                    memory=device.memory,
                    bandwidth=device.bandwidth,
                    latency=device.latency,
                )
                columns = " ".join(f"{column:>9}" for column in compare(costs, model, stages, conditions))
                yield f"{device.name:10} {model.name:6} {stages:3} {dp:3} {microbatches:4} {columns}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--batch", type=int, default=512, help="sequences of a step, all replicas together")
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences")
    options = parser.parse_args()
    print("Modelled, not run; steps in seconds.")
    for line in lines(options.devices, options.batch, options.micro_batch):
        print(line, flush=True)


if __name__ == "__main__":
    main()
