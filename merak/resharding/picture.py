"""The picture of a plan: the links of all hosts over time, as the model has it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merak._extras import require
from merak.resharding.explaining import count_text, seconds_text, size_text

if TYPE_CHECKING:
    from merak.resharding.plan import ReshardPlan

Bar = tuple[float, float, int, str]
"""Begin, end, sender and label of a transfer on a link."""

_MOST_LABELS = 60
_ROW_INCHES = 0.42


def draw(plan: ReshardPlan, path: Path) -> None:
    """Two rows for each host, what leaves it and what enters it; a bar for each transfer, in the colour of its sender.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="viz").use("Agg")
    plt: Any = require("matplotlib.pyplot", extra="viz")
    host_of, hosts = plan.topology.host_of, len(plan.topology.hosts)
    figure, axes = plt.subplots(figsize=(11, 1.6 + 2 * hosts * _ROW_INCHES))
    lanes = _lanes(plan)
    bars = sum(len(transfers) for transfers in lanes.values())
    colours = plt.get_cmap("tab20")
    for row, transfers in lanes.items():
        tracks = _tracks(transfers)
        height = 0.8 / (1 + max(tracks))
        for (start, end, sender, label), track in zip(transfers, tracks, strict=True):
            bottom = row - 0.4 + track * height
            colour = colours(sender % 20)
            axes.broken_barh(
                [(start, end - start)], (bottom, height), facecolor=colour, edgecolor="white", linewidth=0.5
            )
            if bars <= _MOST_LABELS:
                middle = (start + end) / 2, bottom + height / 2
                axes.text(*middle, label, ha="center", va="center", fontsize=7, clip_on=True)
    axes.axvline(plan.lower_bound_s, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(
        range(2 * hosts), [f"host {host} {way}" for host in range(hosts) for way in ("out", "in")], fontsize=8
    )
    axes.set_ylim(2 * hosts - 0.4, -0.6)
    axes.set_xlim(0, max(plan.seconds, plan.lower_bound_s) * 1.02 or 1)
    axes.set_xlabel("seconds by the model; bars are in the colour of who began the transfer")
    total = size_text(sum(move.nbytes for move in plan.moves))
    axes.set_title(
        f"{count_text(len(plan.moves), 'tensor')}, {total}, {len(host_of)} ranks: {seconds_text(plan.seconds)}; "
        f"lower bound {seconds_text(plan.lower_bound_s)} (dashed)",
        fontsize=10,
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _tracks(transfers: list[Bar]) -> list[int]:
    """Of each bar of a row: which part of the row's height it gets, so that those of the same time do not overlap."""
    ends: list[float] = []
    tracks = []
    for start, end, *_ in transfers:
        track = next((index for index, busy in enumerate(ends) if busy <= start), len(ends))
        ends[track : track + 1] = [end]
        tracks.append(track)
    return tracks


def _lanes(plan: ReshardPlan) -> dict[int, list[Bar]]:
    """By row: begin, end, sender and label of each transfer that crosses that link. Parts come one after the other."""
    host_of = plan.topology.host_of
    lanes: dict[int, list[Bar]] = {}
    begin_s = 0.0
    for transfers, chosen, _, _ in plan.planned.plans():
        for number, (_, _, _, _, chain, hops, start, end) in enumerate(transfers):
            seen = set()
            for sender, receiver in [*itertools.pairwise(chain), *hops]:
                out, into = host_of[sender], host_of[receiver]
                if out == into:
                    continue
                for row in (2 * out, 2 * into + 1):
                    if row not in seen:
                        seen.add(row)
                        bar = (begin_s + start, begin_s + end, chain[-1], f"{number}")
                        lanes.setdefault(row, []).append(bar)
        begin_s += chosen[4]
    return lanes
