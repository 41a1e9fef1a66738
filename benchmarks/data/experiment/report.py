"""What the results say: a table of arms, one of learning rates, and the verdict.

"Same quality with half the compute" is claimed if, and only if, the mean loss of both@50 over the seeds is at most that
of base@100 at its best learning rate plus two of its standard deviations over the seeds (of a sample: divided by one
less than there are). Else the share of the gap that is recovered is said: between base@100 and the arm without help
that has half the budget and came out best, of both numbers of steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.data.experiment.arms import ARMS, IDEAS, best_rate
from benchmarks.data.experiment.results import Results

PLAIN_HALF = ("base@50", "base@50, as many steps")
MILLION, TERA = 1e6, 1e12


@dataclass(frozen=True)
class Summary:
    """Of an arm at its best rate.

    Attributes:
        losses: by seed.
        means: of counters over the seeds.
    """

    arm: str
    rate: float
    losses: list[float]
    means: dict[str, float]

    @property
    def loss(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.losses)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None of a single one."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None


def summaries(results: Results) -> dict[str, Summary]:
    """Of the arms and ideas that have run, by name."""
    found = {}
    for arm in [*ARMS, *IDEAS]:
        rate = best_rate(arm, results.losses)
        if rate is not None:
            lines = results.of(arm, rate)
            counters = ("steps", "layer_tokens", "raw_tokens", "sequences", "flops", "cpu_seconds")
            means = {name: statistics.fmean(line[name] for line in lines) for name in counters}
            found[arm] = Summary(arm, rate, [line["loss"] for line in lines], means)
    return found


def verdict(found: dict[str, Summary]) -> str:
    """One or two sentences."""
    halves = [found[name] for name in PLAIN_HALF if name in found]
    if "base@100" not in found or "both@50" not in found or not halves:
        return "No verdict yet: base@100, both@50 and a base@50 must have run."
    whole, both, half = found["base@100"], found["both@50"], min(halves, key=lambda one: one.loss)
    gap = half.loss - whole.loss
    recovered = (
        f"{100 * (half.loss - both.loss) / gap:.0f} % of the gap of {gap:.4f} nats is recovered" if gap > 0 else ""
    )
    numbers = f"both@50 {both.loss:.4f}, base@100 {whole.loss:.4f}, {half.arm} {half.loss:.4f}"
    if whole.deviation is None:
        return f"No verdict yet: base@100 has one seed, so that its deviation is not known. {numbers}: {recovered}."
    limit = whole.loss + 2 * whole.deviation
    if both.loss <= limit:
        return f"Same quality with half the compute: {numbers}; at most {limit:.4f} was asked for."
    return (
        f"Not the same quality with half the compute ({numbers}; {limit:.4f} was asked for): {recovered or 'no gap'}."
    )


def report(results: Results) -> Iterator[str]:
    """Lines of Markdown."""
    found = summaries(results)
    yield from _arms_table(found)
    yield ""
    yield from _rates_table(results)
    yield ""
    yield verdict(found)


def _arms_table(found: dict[str, Summary]) -> Iterator[str]:
    yield (
        "| arm | rate | seeds | loss | deviation | steps | layer-tokens, M | raw tokens, M | sequences, k | TFLOP "
        "| CPU seconds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for one in found.values():
        deviation = "" if one.deviation is None else f"{one.deviation:.4f}"
        mean = one.means
        yield (
            f"| {one.arm} | {one.rate:g} | {len(one.losses)} | {one.loss:.4f} | {deviation} | {mean['steps']:.0f} | "
            f"{mean['layer_tokens'] / MILLION:.2f} | {mean['raw_tokens'] / MILLION:.2f} | "
            f"{mean['sequences'] / 1000:.1f} | {mean['flops'] / TERA:.2f} | {mean['cpu_seconds']:.0f} |"
        )


def _rates_table(results: Results) -> Iterator[str]:
    """Losses of the first seed."""
    losses = results.losses
    rates = sorted({rate for _, rate, seed in losses if seed == 0})
    yield f"| arm, seed 0 | {' | '.join(f'rate {rate:g}' for rate in rates)} |"
    yield "|---|" + "---|" * len(rates)
    for arm in [*ARMS, *IDEAS]:
        row: list[Any] = [losses.get((arm, rate, 0)) for rate in rates]
        if any(row):
            yield f"| {arm} | {' | '.join('' if loss is None else f'{loss:.4f}' for loss in row)} |"
