"""A plan that was found, in words and tables: what a step spends its time on, each stage's memory, the next best plans
and why they lost, and what more memory or faster links would bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from merak.planner.prediction import Prediction
from merak.resharding.explaining import seconds_text, size_text


def lines(best: Prediction, others: Sequence[Prediction], bound_s: float) -> Iterator[str]:
    """The text, line by line.

    Args:
        others: the next best ones, from the fastest on.
        bound_s: no plan takes less, by the formula.
    """
    yield plan_text(best)
    yield (
        f"a step takes {seconds_text(best.step_s)} by simulation; by the formula that plans are searched with, none "
        f"takes less than {seconds_text(bound_s)}"
    )
    yield ""
    yield from _spent(best)
    yield ""
    yield from _stages(best)
    if others:
        yield ""
        yield from _others(best, others)


def plan_text(prediction: Prediction) -> str:
    """Which plan it is, in a line."""
    plan = prediction.plan
    tp = str(plan.tp) if isinstance(plan.tp, int) else " + ".join(map(str, plan.tp))
    words = [f"{plan.microbatches} micro-batches of {prediction.rows:g} rows a replica", f"schedule {plan.schedule}"]
    words += ["sequence parallel"] * plan.sequence_parallel + ["ZeRO-1"] * (plan.data_parallel == "zero1")
    words += ["sparse sums of tables"] * (plan.data_parallel == "sparse")
    words += [f"{plan.sub_batches} sub-batches"] * (plan.sub_batches > 1)
    return f"dp {plan.dp}, tp {tp}, pp {plan.pp}: {', '.join([*words, plan.precision])}"


def spent(prediction: Prediction) -> dict[str, float]:
    """What the busiest pipeline rank spends a step on, in seconds; the rest is waiting."""
    plan, cut = prediction.plan, prediction.cut
    work = [0.0] * plan.pp
    for stage in cut.stages:
        work[stage.rank] += stage.work_s
    rank = max(range(plan.pp), key=work.__getitem__)
    stages = [stage for stage in cut.stages if stage.rank == rank]
    m = plan.microbatches
    travel = [prediction.travel_s[index] for index, stage in enumerate(cut.stages) if stage.rank == rank]
    recompute = m * sum(stage.recompute_s for stage in stages)
    found = {
        "compute": m * sum(stage.forward_s + stage.backward_s for stage in stages) - m * sum(travel),
        "messages within layers": m * sum(travel),
        "recomputation": recompute,
        "sum of gradients": prediction.reduction_s[rank],
        "optimizer": prediction.optimizer_s,
    }
    found["waiting (bubble, and what crosses stages)"] = max(0.0, prediction.step_s - sum(found.values()))
    return found


def _spent(prediction: Prediction) -> Iterator[str]:
    yield "the busiest pipeline rank's time"
    for name, seconds in spent(prediction).items():
        if seconds > 0:
            yield f"  {name:<44} {seconds_text(seconds):>10} {seconds / prediction.step_s:7.1%}"


def _stages(prediction: Prediction) -> Iterator[str]:
    plan = prediction.plan
    head = f"{'stage':>5} {'rank':>4} {'tp':>3}  {'begins at':<28}"
    yield f"{head} {'work':>9} {'recomputed':>10} {'memory':>10} {'of':>10}"
    names = ["(the first operation)", *(plan.cuts or [f"operation {one}" for one in prediction.boundaries])]
    for index, (stage, name) in enumerate(zip(prediction.cut.stages, names, strict=True)):
        yield (
            f"{index:5} {stage.rank:4} {plan.widths[stage.rank]:3}  {name:<28} {seconds_text(stage.work_s):>9} "
            f"{stage.share_recomputed:>10.0%} {size_text(prediction.memory_bytes[stage.rank]):>10} "
            f"{size_text(prediction.budget_bytes[stage.rank]):>10}"
        )


def _others(best: Prediction, others: Sequence[Prediction]) -> Iterator[str]:
    yield "the next best, and what more they spend"
    ours = spent(best)
    for other in others:
        more = {name: seconds - ours[name] for name, seconds in spent(other).items()}
        worst = max(more, key=more.__getitem__)
        yield (
            f"  {seconds_text(other.step_s):>9} ({other.step_s / best.step_s:.3f}x)  {plan_text(other)}: "
            f"{seconds_text(more[worst])} more of {worst}"
        )
