"""A simulated schedule as a Chrome trace: a row for what each rank computes, and one for each link."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merak.pipeline.chart import COMPUTE

if TYPE_CHECKING:
    from merak.pipeline.simulation import Simulation

_MICROSECONDS = 1e6


def write(simulation: Simulation, path: Path) -> None:
    """Writes the file, which https://ui.perfetto.dev and chrome://tracing show."""
    path.write_text(json.dumps({"traceEvents": events(simulation), "displayTimeUnit": "ms"}))


def events(simulation: Simulation) -> list[dict[str, Any]]:
    """In the trace's format. Process 0 are the ranks, process 1 the links."""
    schedule = simulation.schedule
    found = [_name("process_name", 0, 0, "ranks"), _name("process_name", 1, 0, "links")]
    for rank in range(schedule.n_ranks):
        found.append(_name("thread_name", 0, rank, f"rank {rank}"))
        for action, start, end in simulation.spans(rank):
            if action.kind in COMPUTE or action.kind == "REDUCE_GRAD":
                number = action.microbatch if action.microbatch >= 0 else ""
                found.append(_span(f"{action.stage}{action.kind}{number}", action.kind, 0, rank, start, end))
    links: dict[tuple[int, int], int] = {}
    for message in simulation.messages():
        ends = (message.producer, message.consumer) if message.kind == "F" else (message.consumer, message.producer)
        link = schedule.stage_to_rank[ends[0]], schedule.stage_to_rank[ends[1]]
        if link not in links:
            links[link] = len(links)
            found.append(_name("thread_name", 1, links[link], f"rank {link[0]} to rank {link[1]}"))
        name = f"{ends[0]} to {ends[1]}, {message.kind}{message.microbatch}"
        found.append(_span(name, f"message {message.kind}", 1, links[link], message.start, message.end))
    return found


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _span(name: str, category: str, process: int, thread: int, start: float, end: float) -> dict[str, Any]:
    begin_us, length_us = start * _MICROSECONDS, (end - start) * _MICROSECONDS
    return {"name": name, "cat": category, "ph": "X", "pid": process, "tid": thread, "ts": begin_us, "dur": length_us}
