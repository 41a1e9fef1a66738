"""The picture of a plan: its schedule, what ranks' memory holds over a step, and what a step is spent on, beside the
next best plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merak._extras import require
from merak.pipeline.picture import draw_schedule
from merak.planner.explain import plan_text, spent
from merak.planner.prediction import Prediction
from merak.resharding.explaining import seconds_text

_COLOURS = ("#4c8bf5", "#9c6ade", "#e8833a", "#c9b458", "#8d99a6", "#e3e6ea")
_LETTERS = 90
"""Of a plan, beside its bar."""


def draw(best: Prediction, others: Sequence[Prediction], path: Path) -> None:
    """Draws it there: .png, .svg, .pdf.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="viz").use("Agg")
    plt: Any = require("matplotlib.pyplot", extra="viz")
    ranks, bars = best.plan.pp, 1 + len(others)
    heights = [1 + 0.4 * ranks, 3, 0.8 + 0.5 * bars]
    figure, axes = plt.subplots(3, 1, figsize=(14, 2 + sum(heights)), height_ratios=heights)
    draw_schedule(axes[0], best.simulation)
    axes[0].set_title(f"{plan_text(best)}: a step takes {seconds_text(best.step_s)}", fontsize=10)
    axes[0].legend(loc="upper right", bbox_to_anchor=(1, -0.08), ncols=5, fontsize=7, frameon=False)
    _draw_memory(axes[1], best)
    _draw_spent(axes[2], [best, *others])
    for one in axes:
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_memory(axes: Any, prediction: Prediction) -> None:
    most = 0.0
    for rank in range(prediction.plan.pp):
        seconds, nbytes = zip(*prediction.memory_over_time(rank), strict=True)
        gigabytes = [one / 1e9 for one in nbytes]
        most = max(most, *gigabytes)
        axes.step(seconds, gigabytes, where="post", linewidth=1, label=f"rank {rank}")
    budget = min(prediction.budget_bytes) / 1e9
    if budget < 3 * most:
        axes.axhline(budget, color="black", linestyle="--", linewidth=0.8, label="may be used")
    axes.set_xlim(0, prediction.simulation.seconds or 1)
    axes.set_ylim(0, 1.05 * (max(most, budget) if budget < 3 * most else most))
    axes.set_ylabel("GB of each rank")
    axes.set_xlabel("seconds of a step, without the optimizer")
    axes.legend(loc="lower right", ncols=8, fontsize=7, frameon=False)


def _draw_spent(axes: Any, predictions: Sequence[Prediction]) -> None:
    rows = [spent(one) for one in predictions]
    begins = [0.0] * len(rows)
    for name, colour in zip(rows[0], _COLOURS, strict=True):
        seconds = [row[name] for row in rows]
        if any(seconds):
            axes.barh(range(len(rows)), seconds, left=begins, color=colour, height=0.4, label=name)
        begins = [begin + more for begin, more in zip(begins, seconds, strict=True)]
    for number, one in enumerate(predictions):
        text = plan_text(one)
        text = text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."
        axes.text(0, number - 0.3, f"{seconds_text(one.step_s)}: {text}", fontsize=8, va="bottom")
    axes.set_ylim(len(rows) - 0.4, -1.4)
    axes.set_yticks([])
    axes.set_xlabel("seconds of the busiest pipeline rank")
    axes.legend(loc="upper right", ncols=6, fontsize=7, frameon=False)
