"""All kinds of schedules beside each other, for one model on the same ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from merak.pipeline.schedule import Schedule
from merak.pipeline.simulation import Costs, Simulation


class Candidate(NamedTuple):
    """A schedule to compare: its kind, stages a rank, whether it recomputes, and does so before it waits for gradients
    (None: as the kind does)."""

    kind: str
    stages_per_rank: int = 1
    recompute: bool | None = None
    pre_recompute: bool | None = None

    @property
    def name(self) -> str:
        """As the table has it."""
        stages = "" if self.stages_per_rank == 1 else f", {self.stages_per_rank} stages a rank"
        recompute = ", pre-recompute" if self.pre_recompute else ", recompute" if self.recompute else ""
        return self.kind + stages + recompute


CANDIDATES = (
    Candidate("gpipe"),
    Candidate("1f1b"),
    Candidate("interleaved", 2),
    Candidate("interleaved", 4),
    Candidate("looped-bfs", 2),
    Candidate("zero-bubble"),
    Candidate("zero-bubble", 2),
    Candidate("zbv", 2),
    Candidate("eager"),
    Candidate("eager-delayed"),
    Candidate("1f1b", recompute=True),
    Candidate("eager", recompute=True, pre_recompute=True),
    Candidate("shifted"),
)


def simulate(candidate: Candidate, ranks: int, microbatches: int, costs: Costs) -> Simulation:
    """That schedule on so many ranks."""
    schedule = Schedule.make(
        candidate.kind,
        stages=candidate.stages_per_rank * ranks,
        ranks=ranks,
        microbatches=microbatches,
        recompute=candidate.recompute,
        pre_recompute=candidate.pre_recompute,
    )
    return schedule.simulate(costs)


def comparison(ranks: int, microbatches: int, costs_of: Callable[[int], Costs]) -> str:
    """The table: of each schedule the seconds, how many times faster it is than 1F1B, its bubble, and the most that a
    rank keeps.

    Args:
        costs_of: the costs, by how many stages a rank has.
    Raises:
        ValueError: the costs are of another number of stages, or wrong.
    """
    rows = [("schedule", "seconds", "1f1b / it", "bubble", "bytes at most", "receives")]
    base = simulate(Candidate("1f1b"), ranks, microbatches, costs_of(1)).seconds
    for candidate in CANDIDATES:
        simulation = simulate(candidate, ranks, microbatches, costs_of(candidate.stages_per_rank))
        ratio = f"{base / simulation.seconds:.3f}" if simulation.seconds else "-"
        most = f"{max(peak.bytes for peak in simulation.peaks):g}"
        receives = str(max(peak.receives for peak in simulation.peaks))
        rows.append((candidate.name, f"{simulation.seconds:g}", ratio, f"{simulation.bubble:.1%}", most, receives))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{'<' if column == 0 else '>'}{widths[column]}}" for column, cell in enumerate(row))
        for row in rows
    )
