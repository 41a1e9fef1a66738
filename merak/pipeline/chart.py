"""A simulated schedule as text: a row a rank, time from left to right, a cell an action that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from merak.pipeline.schedule import Action
    from merak.pipeline.simulation import ActionSpan, Simulation

COMPUTE = ("F", "B", "I", "W", "R")
"""Kinds that keep a rank busy."""


class Cell(NamedTuple):
    """Some columns of a row: an action's, or idle ones, which have no kind."""

    text: str
    kind: str = ""


def label(action: Action, only_stage: bool) -> str:
    """ "F3", or "2F3" on a rank with several stages."""
    return f"{'' if only_stage else action.stage}{action.kind}{action.microbatch}"


def chart(simulation: Simulation, width: int) -> str:
    """All rows as plain text."""
    names = [f"rank {rank}" for rank in range(simulation.schedule.n_ranks)]
    rows = ["".join(cell.text for cell in row).rstrip() for row in cells(simulation, width - len(names[-1]) - 2)]
    return "\n".join(f"{name:{len(names[-1])}}  {row}".rstrip() for name, row in zip(names, rows, strict=True))


def cells(simulation: Simulation, width: int) -> list[list[Cell]]:
    """By rank: the cells of its row, at most so many columns in all. Where labels would not fit, only kinds are shown,
    and what is shorter than a column is not."""
    schedule = simulation.schedule
    rows = [
        [span for span in simulation.spans(rank) if span.action.kind in COMPUTE] for rank in range(schedule.n_ranks)
    ]
    only_stage = [len(schedule.stages_of(rank)) == 1 for rank in range(schedule.n_ranks)]
    columns = _columns_a_second(simulation, rows, only_stage, max(width, 1))
    return [_row(spans, only, columns) for spans, only in zip(rows, only_stage, strict=True)]


def _columns_a_second(
    simulation: Simulation, rows: list[list[ActionSpan]], only_stage: list[bool], width: int
) -> float:
    """As few as give every action its label and a space, if there is so much room."""
    if not simulation.seconds:
        return 0.0
    wanted = max(
        (
            (len(label(span.action, only)) + 1) / (span.end - span.start)
            for spans, only in zip(rows, only_stage, strict=True)
            for span in spans
            if span.end > span.start
        ),
        default=0.0,
    )
    return min(wanted, width / simulation.seconds)


def _row(spans: list[ActionSpan], only_stage: bool, columns: float) -> list[Cell]:
    row = []
    at = 0
    for span in spans:
        begin, end = round(span.start * columns), round(span.end * columns)
        if end == begin:
            continue
        if begin > at:
            row.append(Cell(" " * (begin - at)))
        row.append(Cell(_filled(span.action, only_stage, end - begin), span.action.kind))
        at = end
    return row


def _filled(action: Action, only_stage: bool, width: int) -> str:
    """The label; a line to the end of the action; a space, if there is room for it."""
    text = label(action, only_stage)
    if len(text) > width:
        text = action.kind
    return text if len(text) == width else text.ljust(width - 1, "-") + " "
