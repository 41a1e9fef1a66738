"""The picture of a simulated schedule: what ranks compute over time, and what is on its way between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from merak._extras import require
from merak.pipeline.chart import COMPUTE, label

if TYPE_CHECKING:
    from merak.pipeline.simulation import Simulation

COLOURS = {"F": "#4c8bf5", "B": "#34a853", "I": "#7cc48d", "W": "#c9b458", "R": "#e8833a"}
_NAMES = {"F": "forward", "B": "backward", "I": "for inputs", "W": "for weights", "R": "recompute"}
_MOST_LABELS = 80
"""Of a rank; more would lie one over the other."""
_MOST_MESSAGES = 2000


def draw(simulation: Simulation, path: Path) -> None:
    """A bar for each action that computes; a thin line for each message from where it is sent to where it arrives.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="viz").use("Agg")
    plt: Any = require("matplotlib.pyplot", extra="viz")
    ranks = simulation.schedule.n_ranks
    figure, axes = plt.subplots(figsize=(14, 1.6 + 0.45 * ranks))
    draw_schedule(axes, simulation)
    axes.set_xlabel("seconds by the model")
    axes.set_title(
        f"{simulation.schedule.n_stages} stages on {ranks} ranks, {simulation.schedule.n_microbatches} micro-batches: "
        f"{simulation.seconds:g} s, bubble {simulation.bubble:.1%}",
        fontsize=10,
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    figure.legend(loc="upper right", ncols=len(COLOURS), fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_schedule(axes: Any, simulation: Simulation) -> None:
    """Draws it on these axes of matplotlib's, a row a rank."""
    ranks = simulation.schedule.n_ranks
    _draw_actions(axes, simulation)
    _draw_messages(axes, simulation)
    axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)], fontsize=8)
    axes.set_ylim(ranks - 0.5, -0.5)
    axes.set_xlim(0, simulation.seconds or 1)


def _draw_actions(axes: Any, simulation: Simulation) -> None:
    schedule = simulation.schedule
    rows = [
        [span for span in simulation.spans(rank) if span.action.kind in COMPUTE] for rank in range(schedule.n_ranks)
    ]
    labelled = max(map(len, rows), default=0) <= _MOST_LABELS
    named = set()
    for rank, spans in enumerate(rows):
        only_stage = len(schedule.stages_of(rank)) == 1
        for kind in {span.action.kind for span in spans}:
            bars = [(start, end - start) for action, start, end in spans if action.kind == kind]
            name = None if kind in named else _NAMES[kind]
            named.add(kind)
            axes.broken_barh(
                bars, (rank - 0.4, 0.8), facecolor=COLOURS[kind], edgecolor="white", linewidth=0.5, label=name
            )
        for action, start, end in spans if labelled else ():
            middle = (start + end) / 2, rank
            axes.text(*middle, label(action, only_stage), ha="center", va="center", fontsize=6, clip_on=True)


def _draw_messages(axes: Any, simulation: Simulation) -> None:
    rank_of = simulation.schedule.stage_to_rank
    messages = simulation.messages()
    if len(messages) > _MOST_MESSAGES:
        return
    for message in messages:
        ends = (message.producer, message.consumer) if message.kind == "F" else (message.consumer, message.producer)
        rows = [rank_of[stage] for stage in ends]
        axes.plot([message.sent, message.end], rows, color=COLOURS[message.kind], linewidth=0.6, alpha=0.7, zorder=3)
